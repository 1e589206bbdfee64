"""Trains processes of the second stage for the same time each and prints a table.

    python benchmarks/compare_predictors.py runs/compare --minutes 20
    python benchmarks/compare_predictors.py runs/compare --minutes 20 \\
        --rows measured_regression measured_rectified

Synthetic city of 64x64 maps, 250 layouts with 10 transmitters each, split by layout; a
first stage of 3,000 steps; denoisers of about a million parameters. How many steps fit
into the minutes is measured once, each row for a few steps by itself (the fastest fifth
of them, so that other work on the machine counts less), and kept in steps.json. What is
there already is not done again, so the same command goes on after an interruption.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[1]
PLANES = "('buildings','transmitter','distance','log_distance','measurements')"
KINDS = ("regression", "decoupled", "rectified", "mean_flow")
UNKNOWN = {
    "missing": {"condition.buildings_missing": 0.2},
    "cars": {"data.simulation": "carsDPM"},
    "measured": {"condition.planes": PLANES},
}
MEASUREMENTS = (0, 10, 100, 300)
ROWS = {
    "pixels_regression": {
        "process.kind": "regression",
        "first_stage.run": "pixels",
        "denoiser.mult": "(1,1,2,2)",
    },
    **{kind: {"process.kind": kind} for kind in KINDS},
    **{
        f"{what}_{kind}": fields | {"process.kind": kind}
        for what, fields in UNKNOWN.items()
        for kind in KINDS
    },
}
CITY = {"data.synthetic.maps": 250, "data.synthetic.transmitters": 10}
COMMON = {
    "data.augment": "dihedral",
    "optimizer.warmup_steps": 50,
    "optimizer.end_factor": 0.02,
    "train.log_every": 50,
    "train.histogram_every": 0,
}
FIRST = CITY | {
    **COMMON,
    "loss.disc_factor": 0.0,
    "ema.decay": 0.995,
    "train.steps": 3000,
    "train.batch_size": 8,
    "train.validate_every": 500,
    "train.checkpoint_every": 500,
}
SECOND = CITY | COMMON | {"data.simulation": "DPM", "ema.decay": 0.995}
SHOWN = ("nmse", "rmse_db", "ssim", "psnr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS)[:5])
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "first" / "evaluation" / "test.json").exists():
        train("quickstart", folder / "first", folder, FIRST)
        run("evaluate", "--workdir", folder / "first", "--split", "test")
    steps = {row: steps_of(row, folder, args.minutes) for row in args.rows}
    for row in args.rows:
        fields = fields_of(row, folder) | {"train.steps": steps[row]}
        for name in ("validate_every", "checkpoint_every"):
            fields[f"train.{name}"] = max(steps[row] // 6, 1)
        train("quickstart_ldm", folder / row, folder, fields)
        evaluate(row, folder)
    print("\n".join(table(folder, row) for row in args.rows))


def fields_of(row: str, folder: pathlib.Path) -> dict:
    return SECOND | {"first_stage.run": folder / "first"} | ROWS[row]


def train(config: str, workdir: pathlib.Path, folder: pathlib.Path, fields) -> None:
    """Trains, or goes on where it was."""
    fields = {"data.root": folder / "city"} | fields
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    run("main", "--config", config, "--workdir", workdir, *flags)


def run(module: str, *arguments: object) -> None:
    words = [sys.executable, "-m", f"radiovae_jax.{module}", *map(str, arguments)]
    subprocess.run(words, check=True, cwd=PROJECT)


def steps_of(row: str, folder: pathlib.Path, minutes: float) -> int:
    """Returns how many steps of a row fit into the minutes."""
    path = folder / "steps.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if row not in found:
        probe = folder / "probe"
        shutil.rmtree(probe, ignore_errors=True)
        short = {"train.steps": 60, "train.log_every": 1, "data.val_split": ""}
        train("quickstart_ldm", probe, folder, fields_of(row, folder) | short)
        lines = map(json.loads, (probe / "metrics.jsonl").read_text().splitlines())
        seconds = [line["time/step_seconds"] for line in lines][10:]
        found[row] = statistics.quantiles(seconds, n=5)[0]
        path.write_text(json.dumps(found, indent=1) + "\n")
    return round(60 * minutes / found[row])


def evaluate(row: str, folder: pathlib.Path) -> None:
    """Writes the records of a row, for each number of measurements where it has any."""
    counts = MEASUREMENTS if row.startswith("measured") else (0,)
    unknown = row.split("_")[0] in UNKNOWN
    flags = ["--calls", 1 if row.endswith(("regression", "mean_flow")) else "1,5"]
    if not row.endswith("regression"):
        flags += ["--samples", 32 if unknown else 8]
    if row == "regression":
        flags += ["--baseline", "predictors"]
    for count in counts:
        kept = record_path(folder, row, count)
        if kept.exists():
            continue
        for split in ("val", "test"):
            measured = ("--measurements", count) if count else ()
            workdir = ("--workdir", folder / row, "--split", split)
            run("evaluate", *workdir, *flags, *measured)
        shutil.copy(folder / row / "evaluation" / "test.json", kept)


def record_path(folder: pathlib.Path, row: str, count: int) -> pathlib.Path:
    return folder / f"{row}{f'_{count}' if count else ''}.json"


def table(folder: pathlib.Path, row: str) -> str:
    """Returns lines of Markdown: numbers on the raw scale, and thresholded at 0.2."""
    lines = []
    for count in MEASUREMENTS:
        path = record_path(folder, row, count)
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        for name, scales in record["rows"].items():
            numbers = (
                f"{scales[scale]['all'][column]:.4g}"
                for scale in ("raw", "thresholded_0.2")
                for column in SHOWN
            )
            street = f"{scales['raw']['street']['rmse_db']:.4g}"
            ms = record["ms_a_map"].get(name)
            spread = record.get("calibration", {}) if name.startswith("mean_of") else {}
            cells = (
                *(f"{row} {count or ''}".strip(), name, *numbers, street),
                f"{ms:.3g}" if ms else "",
                *(
                    f"{spread[key]:.1%}" if key in spread else ""
                    for key in ("coverage", "scaled_coverage")
                ),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
