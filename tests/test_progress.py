"""Bars show in terminals that say they have no columns."""

import io
import os
import warnings

import pytest

from radiovae_jax.progress import Bar


@pytest.mark.parametrize("columns", [0, 40])
def test_a_bar_shows_whatever_the_terminal_says(columns, monkeypatch):
    size = os.terminal_size((columns, columns))
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: size)
    shown = io.StringIO()
    shown.fileno = lambda: 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in Bar(range(3), file=shown, mininterval=0, nrows=columns or 24):
            pass
    assert "100%" in shown.getvalue()
