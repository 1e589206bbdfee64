"""What is said of a write that failed, whichever of Orbax's writers says it."""

import errno
import os

import pytest

from radiovae_jax.training import orbax_errors

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    "notes",
    [
        "[os_error_code='28' source_locations='x.cc:1: y']...",
        """[tensorstore_spec='{"create": true,"driver":"zarr"}'] [source_locations='""",
    ],
)
def test_the_reason_is_found_at_the_end_of_tensorstore_s_line(notes):
    line = f"DATA_LOSS: Error writing x: {FULL} {notes}"
    assert orbax_errors.cause(ValueError(f"{line}\nmore")) == FULL


def test_a_reason_without_notes_or_file_is_kept_whole():
    assert orbax_errors.cause(ValueError(FULL)) == FULL
    assert orbax_errors.cause(ValueError(f"{FULL} [tensorstore_spec='{{}}']")) == FULL


def test_the_reason_of_an_oserror_is_not_its_file():
    error = OSError(errno.ENOSPC, FULL, "/run/checkpoints/60/data/metadata")
    assert orbax_errors.cause(error) == FULL
    try:
        raise RuntimeError("a thread of Orbax failed: see above") from error
    except RuntimeError as wrapped:
        assert orbax_errors.cause(wrapped) == FULL
