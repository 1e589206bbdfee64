"""The folder of a run: what may change in it, and reading it while it is trained."""

import json
import shutil

import pytest
import tiny
from test_checkpoint import state_at

from radiovae_jax.training import checkpoint, run_folder
from radiovae_jax.training.checkpoint import Checkpoints


def changed(config, **fields):
    """Returns the config with fields like train__steps changed."""
    config = config.copy_and_resolve_references()
    for name, value in fields.items():
        section, field = name.split("__")
        config[section][field] = value
    return config


CONSTANT = dict(optimizer__schedule="constant")


@pytest.mark.parametrize(
    "there, here, words",
    [
        ({}, dict(train__steps=200), "extend=True goes on"),  # a cosine over the steps
        (CONSTANT, dict(train__steps=50), "extend=True goes on"),  # fewer
        (CONSTANT, dict(train__steps=200), ""),
        (
            CONSTANT | dict(loss__kl_schedule="cyclical"),
            dict(train__steps=200),
            "extend=True goes on",
        ),
        ({}, dict(optimizer__learning_rate=1e-6, train__extend=True), ""),
        ({}, dict(train__batch_size=2, train__extend=True), "init_from="),
        ({}, dict(loss__kl_weight=1e-3), r"kl_weight: 1e-06 there, 0.001 here"),
    ],
)
def test_more_steps_and_other_rates_are_for_runs_that_say_so(
    tmp_path, there, here, words
):
    config = changed(tiny.read("quickstart"), train__steps=100, **there)
    run_folder.claim(tmp_path, config)
    (tmp_path / "checkpoints" / "64" / "state").mkdir(parents=True)
    other, before = changed(config, **here), (tmp_path / "config.json").read_text()
    history = tmp_path / run_folder.HISTORY
    if words:
        with pytest.raises(ValueError, match=words) as error:
            run_folder.claim(tmp_path, other)
        assert f"init_from={tmp_path}" in str(error.value)
        assert ("extend" in str(error.value)) == ("extend" in words)
        assert (tmp_path / "config.json").read_text() == before
        assert not history.exists()
        return
    run_folder.claim(tmp_path, other)
    run_folder.claim(tmp_path, other)  # the same command again changes nothing
    name = next(name for name in here if name != "train__extend")
    section, field = name.split("__")
    assert json.loads(history.read_text()) == {
        "step": 64,
        "from": {f"{section}.{field}": config[section][field]},
        "to": {f"{section}.{field}": here[name]},
    }
    assert run_folder.read_config(tmp_path)[section][field] == here[name]


def test_a_run_is_not_shortened_below_what_it_has_done(tmp_path):
    config = changed(tiny.read("quickstart"), train__steps=100)
    run_folder.claim(tmp_path, config)
    (tmp_path / "checkpoints" / "64" / "state").mkdir(parents=True)
    with pytest.raises(ValueError, match="has done 64 steps already, more than"):
        run_folder.claim(tmp_path, changed(config, train__steps=50, train__extend=True))
    assert run_folder.read_config(tmp_path).train.steps == 100


def test_what_f_is_in_db_stays_and_is_noted_where_it_changes(tmp_path):
    silent = changed(tiny.read("quickstart"), data__source="folder")
    given = changed(silent, data__db_floor=-250.0, data__db_span=250.0)
    run_folder.claim(tmp_path, given)
    run_folder.claim(tmp_path, silent)
    assert run_folder.continued(tmp_path, silent).data.db_span == 250
    assert run_folder.read_config(tmp_path).data.db_floor == -250
    assert not (tmp_path / run_folder.HISTORY).exists()
    run_folder.claim(tmp_path, changed(given, data__db_span=200.0))
    noted = json.loads((tmp_path / run_folder.HISTORY).read_text())
    assert (noted["from"], noted["to"]) == (
        {"data.db_span": 250.0},
        {"data.db_span": 200.0},
    )


def test_what_killed_processes_left_is_removed_where_a_run_goes_on(tmp_path):
    (tmp_path / "images").mkdir()
    for folder in (tmp_path, tmp_path / "images"):
        (folder / f".a.png.{2**22 + 1}.partial").write_text("half")
    run_folder.claim(tmp_path, tiny.read("quickstart"))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture
def two_saved(tmp_path):
    """A run with checkpoints of steps 1 and 2, the second the better."""
    run_folder.claim(tmp_path, tiny.read("quickstart"))
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state_at(step), {"position": step}, {"nmse": 1 / step})
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


@pytest.mark.parametrize("torn", [False, True])
def test_a_checkpoint_that_is_replaced_while_it_is_read_is_chosen_anew(
    two_saved, monkeypatch, torn
):
    """As a training does it: all at once, or its files first and then its folder."""
    folder = two_saved / "checkpoints" / "2"
    monkeypatch.setattr(run_folder, "PAUSE_S", 0.0)
    chosen = []

    def read(step):
        chosen.append(step)
        like = {"params": state_at(step).params}
        if step == 2:
            for path in (folder / "state").rglob("*") if torn else ():
                if path.is_file():
                    path.unlink()
            if not torn:
                shutil.rmtree(folder)
        return checkpoint.restore_part(two_saved, step, like)

    if torn:
        with pytest.raises(ValueError, match=r"checkpoint 2 .* cannot be read"):
            run_folder.hold(two_saved, 2, read)  # asked for: no other is taken
        chosen.clear()
        monkeypatch.setattr(run_folder.time, "sleep", lambda _: shutil.rmtree(folder))
    step, found = run_folder.hold(two_saved, 0, read)
    assert (step, chosen) == (1, [2, 1])
    assert float(found["params"]["logvar"]) == 0.5
