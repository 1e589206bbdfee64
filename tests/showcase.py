"""A made-up run for the tests of pictures and report: no training needed."""

import json
import math
import pathlib

CONFIG = {
    "seed": 42,
    "loss": {
        "disc_start": 50_001,
        "disc_factor": 1.0,
        "disc_weight": 0.5,
        "kl_weight": 1e-6,
    },
    "train": {"steps": 150_000},
}


def lines(count: int = 300, every: int = 500) -> list[dict]:
    """Returns lines as of the documented run: losses fall, d_weight is at its clamp."""
    return [line(every * i) for i in range(1, count + 1)]


def line(step: int) -> dict:
    adversarial = step > CONFIG["loss"]["disc_start"]
    wave = math.sin(step)
    values = {
        "step": step,
        "train/rec_loss": (0.01 + math.exp(-step / 5000)) * math.exp(0.2 * wave),
        "train/kl_loss": 1.5e5 + 0.1 * step + 1e3 * wave,
        "train/logvar": -4.6 * (1 - math.exp(-step / 20_000)),
        "train/nll_loss": -1e5 + 1e4 * wave,
        "train/total_loss": -1e5 + 9e3 * wave,
        "train/ae_update_norm": 0.01,
        "train/ae_param_norm": 50.0,
        "train/disc_factor": float(adversarial),
        "train/d_weight": 5000.0 * adversarial,
        "train/g_loss": (-0.45 + 0.1 * wave) * adversarial,
        "train/disc_loss": (0.9 + 0.1 * wave) * adversarial,
        "train/logits_real": 0.6 * adversarial,
        "train/logits_fake": (0.45 - 0.1 * wave) * adversarial,
        "time/step_seconds": 0.1,
        "time/images_per_second": 80.0,
    }
    if step % 5000 == 0:
        nmse = 0.002 + 0.03 * math.exp(-step / 20_000)
        values |= {
            "val/nmse": nmse,
            "val/psnr": -10 * math.log10(0.113 * nmse),
            "val/ssim": 1 - 6 * nmse,
            "val/rmse_db": 100 * math.sqrt(0.113 * nmse),
            "val/rec_loss": 0.02,
        }
    return values


def write(workdir: pathlib.Path, written: list[dict], config: dict = CONFIG):
    """Makes the folder of a run with these lines; returns it."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config))
    text = "".join(json.dumps(one) + "\n" for one in written)
    (workdir / "metrics.jsonl").write_text(text)
    return workdir


def touch(figure, path: pathlib.Path, **_) -> None:
    """Stands for Figure.savefig where only the names of the files matter."""
    path.touch()
