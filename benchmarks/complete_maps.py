"""Completes maps from random street measurements, by several methods, and compares.

    python benchmarks/complete_maps.py ROOT --first runs/radio --points 100 \\
        --second runs/radio_ldm --size 64

ROOT has RadioMapSeer's layout, or is a synthetic city. The same points for all methods:
the nearest measurement, inverse distances (squared), kriging (a Gaussian process of f
over the place, its length and noise fitted to the points), descent through the first
stage's decoder, without and with the buildings and the transmitter, and prediction by a
second stage that was trained with measurements. Printed is the RMSE in dB over street
pixels that were not measured, pooled over maps. Needs scikit-learn.
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from jax import image
from sklearn import gaussian_process, neighbors
from sklearn.gaussian_process import kernels

import radiovae_jax
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.data.radiomapseer import RadioMapSeer
from radiovae_jax.progress import Bar
from radiovae_jax.training import run_folder
from radiovae_jax.vae import completion

FIELDS = ("gray", "buildings", "antenna")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--first", type=pathlib.Path, required=True)
    parser.add_argument("--second", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=0, help="resize to; 0: as stored")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--maps", type=int, default=0, help="0: all of the split")
    parser.add_argument("--samples", type=int, default=8)
    args = parser.parse_args()
    source = RadioMapSeer(args.root, split=args.split, fields=FIELDS)
    methods = {"nearest": nearest, "inverse distance": inverse_distance}
    methods |= {"kriging": kriging}
    methods |= by_descent(args.first, args.samples)
    if args.second:
        methods["second stage"] = conditioned(args.second, args.samples)
    squares, seconds = dict.fromkeys(methods, 0.0), dict.fromkeys(methods, 0.0)
    pixels, count = 0, min(args.maps or len(source), len(source))
    for index in Bar(range(count), unit="map"):
        place = resized(source[index], args.size)
        street = np.argwhere(~place["buildings"])
        chosen = np.random.default_rng(index).permutation(len(street))[: args.points]
        rows, columns = street[chosen].T
        points = np.stack([columns, rows], axis=1).astype(np.float64)
        left = ~place["buildings"]
        left[rows, columns] = False
        pixels += left.sum()
        for name, method in methods.items():
            start = time.perf_counter()
            found = method(points, place["f"][rows, columns].astype(np.float64), place)
            seconds[name] += time.perf_counter() - start
            off = np.clip(found, 0, 1)[left] - place["f"][left]
            squares[name] += radiomap.DB_SPAN**2 * np.square(off).sum()
    print(f"{count} maps of {args.root}, {args.points} points each")
    for name, total in squares.items():
        rmse, each = (total / pixels) ** 0.5, seconds[name] / count
        print(f"| {name} | {rmse:.2f} | {each:.2f} |")


def resized(record: dict, size: int) -> dict:
    """Returns f, buildings [h, w] and the transmitter's (x, y) at another size."""
    f = radiomap.gray_to_f(record["gray"])[..., 0]
    buildings = record["buildings"][..., 0] == 255
    row, column = np.argwhere(record["antenna"][..., 0])[0]
    if size:
        scale = size / len(f)
        f = np.asarray(image.resize(f, (size, size), "bilinear"))
        share = image.resize(buildings.astype(np.float32), (size, size), "bilinear")
        buildings = np.asarray(share) >= 0.5
        row, column = int((row + 0.5) * scale), int((column + 0.5) * scale)
        buildings[row, column] = False
    return {"f": np.array(f), "buildings": buildings, "tx": (column, row)}


def everywhere(place: dict) -> np.ndarray:
    """Returns (x, y) of all pixels, row by row."""
    height, width = place["f"].shape
    return np.stack(np.meshgrid(range(width), range(height)), -1).reshape(-1, 2)


def nearest(points, f, place) -> np.ndarray:
    fitted = neighbors.KNeighborsRegressor(1).fit(points, f)
    return fitted.predict(everywhere(place)).reshape(place["f"].shape)


def inverse_distance(points, f, place) -> np.ndarray:
    far = np.linalg.norm(everywhere(place)[:, None] - points[None], axis=-1)
    weights = 1 / np.maximum(far, 1e-3) ** 2
    return (weights @ f / weights.sum(axis=1)).reshape(place["f"].shape)


def kriging(points, f, place) -> np.ndarray:
    kernel = kernels.ConstantKernel(0.05) * kernels.Matern(
        10.0, (1.0, 200.0), nu=1.5
    ) + kernels.WhiteKernel(1e-3, (1e-6, 1e-1))
    fitted = gaussian_process.GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0
    ).fit(points, f)
    return fitted.predict(everywhere(place)).reshape(place["f"].shape)


def by_descent(workdir: pathlib.Path, samples: int) -> dict:
    run, config = radiovae_jax.load_codec(workdir), run_folder.read_config(workdir)
    training = datasets.open_data(config, config.data.train_split)
    prior, rmse = completion.prior_of(training, run)

    def complete(points, f, place, **known) -> np.ndarray:
        found = completion.from_points(
            run,
            prior,
            points,
            f,
            place["f"].shape,
            jax.random.key(0),
            noise=max(rmse, completion.LEAST_NOISE),
            samples=samples,
            **known,
        )
        return found.mean(axis=0)[..., 0]

    def knowing_buildings(points, f, place) -> np.ndarray:
        mask = np.where(place["buildings"], 255, 0).astype(np.uint8)
        tx = np.array([place["tx"]], np.float64)
        return complete(points, f, place, buildings=mask, tx=tx)

    return {"descent": complete, "descent, buildings and tx": knowing_buildings}


def conditioned(workdir: pathlib.Path, samples: int):
    run = radiovae_jax.load_predictor(workdir)

    def predict(points, f, place) -> np.ndarray:
        found = run.predict(
            place["buildings"],
            place["tx"],
            measurements=(points, f),
            samples=samples,
            unit="f",
        )
        return found.mean(axis=(0, 1))

    return predict


if __name__ == "__main__":
    main()
