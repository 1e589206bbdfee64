"""One device or four: the same run, through the command that users run."""

import command
import numpy as np
import pytest

from radiovae_jax.training import logbook

STEPS = 10
# test_sharding.py says the same of five compiled steps, within the quick tests.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Returns the log of ten adversarial steps on one device and on four."""
    lines = []
    for devices in (1, 4):
        folder = tmp_path_factory.mktemp(f"devices{devices}")
        done = command.quickstart(
            folder,
            "--config.loss.disc_start=0",
            "--config.loss.pixelloss_weight=0.1",  # d_weight below its clamp
            # Not the quickstart's 1e-3: there Adam turns a sign of |x - recon| that
            # flips in the last bit into a whole step, and ten of them into 1e-3.
            "--config.optimizer.learning_rate=1e-4",
            "--config.optimizer.disc_learning_rate=1e-4",
            f"--config.train.steps={STEPS}",
            "--config.data.val_split=",
            devices=devices,
        )
        assert done.returncode == 0, done.stderr
        lines.append(logbook.read(folder / "run" / "metrics.jsonl"))
    return lines


def test_four_devices_give_the_losses_of_one(logs):
    one, four = logs
    assert len(one) == len(four) == STEPS
    for name in (name for name in one[0] if name.startswith("train/")):
        np.testing.assert_allclose(
            [line[name] for line in four],
            [line[name] for line in one],
            rtol=1e-5,
            atol=1e-6,
            err_msg=name,
        )


def test_the_adaptive_weight_was_at_work(logs):
    weights = [line["train/d_weight"] for line in logs[1]]
    assert min(weights) > 0
    assert max(weights) < 5000  # not at its clamp, where any two runs agree
