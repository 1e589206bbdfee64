"""The subcommands of apply: files of maps or latents in, files and a picture out."""

import argparse
import collections
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from radiovae_jax import cli, files
from radiovae_jax.data import conditions, mapfiles, radiomap
from radiovae_jax.data.mapfiles import MapFile
from radiovae_jax.diffusion import predictor
from radiovae_jax.progress import Bar
from radiovae_jax.reporting import plots
from radiovae_jax.types import Array
from radiovae_jax.vae import completion, latent_files
from radiovae_jax.vae.codec import Sizes

Maps = Float[np.ndarray, "n h w c"]
SHOWN = 9  # maps in the picture of an interpolation


class Job(NamedTuple):
    """A run, the flags of the command, and the folder of its results.

    `codec` is a first stage's; of `predict`, a second one, it is a `Predictor`.
    """

    codec: Any  # Codec | Predictor
    flags: argparse.Namespace
    out: pathlib.Path
    printed: set[str]
    pixel_metres: float = 1.0  # side of a stored pixel
    prior_of: Callable[..., tuple[completion.Prior, float]] | None = None  # of a Codec

    def say_once(self, text: str) -> None:
        """Prints a line, unless it was printed before."""
        if text not in self.printed:
            self.printed.add(text)
            say(text)

    def free(self, names: Iterable[str]) -> list[pathlib.Path]:
        """Returns the paths of new files in the folder, which is made."""
        paths = [self.out / files.fitting(name) for name in names]
        twice = [path for path, n in collections.Counter(paths).items() if n > 1]
        if twice:
            raise ValueError(
                f"several results would be {twice[0]}; rename one of the files given, "
                "or give them in several commands, each with its own --out"
            )
        replaced = self.flags.overwrite
        there = [p for p in paths if p.is_dir() or (p.exists() and not replaced)]
        if there:
            raise ValueError(
                f"{len(there)} of the results are there already, {there[0]} first; "
                "--overwrite replaces files, --out DIR writes elsewhere"
            )
        cli.folder(self.out, flag="--out")
        return paths

    def not_an_input(self, paths: Iterable[pathlib.Path]) -> None:
        """Raises a ValueError if a result would replace one of the maps given."""
        given = {path.resolve() for path in map(pathlib.Path, self.flags.files)}
        for path in paths:
            if path.resolve() in given or path.resolve().parent in given:
                raise ValueError(f"{path} is one of the maps given; give another --out")


def reconstruct(job: Job) -> None:
    """decode(encode(map)) with the posterior's mean, in the format of the input."""
    given = mapfiles.find(job.flags.files)
    outs = {path: targets(path, job.flags.format) for path in given}
    names = [name for names in outs.values() for name in names]
    pictures = [f"{path.stem}_error.png" for path in given]
    paths = job.free([*names, *pictures])
    job.not_an_input(paths)
    for path in given:  # what is wrong with one is said before hours of work
        sizes_of(job, read(job, path))
    errors: list[float] = []
    db = job.codec.db
    for path, picture in zip(bar(given, "map files"), paths[len(names) :], strict=True):
        held = read(job, path)
        sizes = sizes_of(job, held)
        recon = np.stack([decoded(job, posterior(job, f)[0], sizes) for f in held.f])
        rmse = np.sqrt(np.mean((recon - held.f) ** 2, axis=(1, 2, 3)))
        for name, error in zip(held.names, rmse.tolist(), strict=True):
            say(f"{name}: RMSE {db.words(error)}")
            errors.append(error)
        written = [job.out / files.fitting(name) for name in outs[path]]
        if written[0].suffix == ".npz":
            check_finite(held.names, recon)
            mapfiles.write_scene(written[0], recon, like=path, db=db)
        else:
            write_maps(job, written, recon)
        figure = plots.reconstructions(held.f, recon, names=held.names, db=db)
        plots.save(figure, picture)
    say(f"mean RMSE {db.words(float(np.mean(errors)))} over {len(errors)} maps")


def encode(job: Job) -> None:
    """Posteriors to one npz for each size of map."""
    by_size: dict[tuple[int, int], list[pathlib.Path]] = collections.defaultdict(list)
    taken: dict[tuple[tuple[int, int], str], pathlib.Path] = {}
    # What is wrong with one is said before hours of work; no map is kept.
    for path in mapfiles.find(job.flags.files):
        held = read(job, path)
        size = held.f.shape[1:3]
        sizes_of(job, held)
        by_size[size].append(path)
        for name in held.names:
            other = taken.setdefault((size, name), path)
            if other is not path:
                raise ValueError(
                    f"{other} and {path} both hold a map named {name}, and the latents "
                    "of one file need names that differ; give a map once, rename one, "
                    "or give them in several commands, each with its own --out"
                )
    several = len(by_size) > 1
    outs = [f"latents_{by(size)}.npz" if several else "latents.npz" for size in by_size]
    for out, (size, group) in zip(job.free(outs), by_size.items(), strict=True):
        posteriors, names = [], []
        for path in bar(group, "map files"):
            held = read(job, path)
            posteriors += [posterior(job, f) for f in held.f]
            names += held.names
        mean, logvar = (np.stack(part) for part in zip(*posteriors, strict=True))
        latent_files.write(
            out,
            names,
            mean,
            logvar,
            stored=size,
            network=job.codec.sizes(size, job.flags.size).network,
            run=job.codec.description,
        )
        say(f"{len(mean)} maps, mean and logvar of {by(mean.shape[1:])} each: {out}")


def decode(job: Job) -> None:
    """The maps of latents."""
    given = [(path, latent_files.read(path)) for path in job.flags.files]
    for _, held in given:  # what is wrong with one is said before hours of work
        job.codec.check_latents(held.z.shape, latent_sizes(job, held))
    names = [
        [
            *(f"{name}.{job.flags.format}" for name in held.names),
            f"{path.stem}_decoded.png",
        ]
        for path, held in given
    ]
    free = iter(job.free(itertools.chain(*names)))
    for path, held in given:
        outs = list(itertools.islice(free, len(held.z)))
        sizes = latent_sizes(job, held)
        maps = np.stack([decoded(job, z, sizes) for z in bar(held.z, "latents")])
        write_maps(job, outs, maps)
        title = f"{path.name}, decoded"
        figure = plots.samples(maps, title=title, db=job.codec.db)
        plots.save(figure, next(free))


def sample(job: Job) -> None:
    """Maps from the prior; the i-th depends on the seed and i alone."""
    count, seed, side = job.flags.count, job.flags.seed, job.flags.side
    numbers = padded(count, 3)
    outs = job.free(f"sample_{seed}_{i}.{job.flags.format}" for i in numbers)
    (picture,) = job.free([f"samples_{seed}.png"])
    size = (side, side) if side else job.codec.training_size
    shape = (*job.codec.latent_size(size), job.codec.model.embed_dim)
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(count)]
    noise = (jax.random.normal(key, shape) for key in bar(keys, "samples"))
    maps = np.stack([decoded(job, z, Sizes(size, size)) for z in noise])
    write_maps(job, outs, maps)
    plots.save(plots.samples(maps, db=job.codec.db), picture)
    say(
        "note: latents were drawn from N(0, 1). With a small loss.kl_weight (1e-6) "
        "those of maps are not so, and it takes a model of them to draw real maps"
    )


def interpolate(job: Job) -> None:
    """Maps on the straight line between the posterior means of two."""
    given = mapfiles.find(job.flags.files)
    held = [read(job, path) for path in given]
    if [len(file.f) for file in held] != [1, 1]:
        raise ValueError(
            f"there are {sum(len(file.f) for file in held)} maps in "
            f"{', '.join(map(str, given))}; interpolate goes from one map to one other"
        )
    a, b = held
    if a.f.shape != b.f.shape:
        raise ValueError(
            f"{a.path} is {by(a.f.shape[1:])}, {b.path} {by(b.f.shape[1:])}; "
            "interpolate between maps of one size"
        )
    stem = f"{a.names[0]}_to_{b.names[0]}"
    steps = padded(job.flags.steps, 2)
    outs = job.free(f"{stem}_{i}.{job.flags.format}" for i in steps)
    (picture,) = job.free([f"{stem}.png"])
    sizes = sizes_of(job, a)
    first, last = (posterior(job, file.f[0])[0] for file in held)
    shares = np.linspace(0, 1, len(steps), dtype=np.float32)
    maps = np.stack(
        [
            decoded(job, (1 - share) * first + share * last, sizes)
            for share in bar(shares, "steps")
        ]
    )
    write_maps(job, outs, maps)
    few = np.linspace(0, len(maps) - 1, min(len(maps), SHOWN)).round().astype(int)
    title = f"{stem}, from 0% to 100% in rows"
    plots.save(plots.samples(maps[few], title=title, db=job.codec.db), picture)


def predict(job: Job) -> None:
    """Maps from buildings and transmitters, by a second stage."""
    flags = job.flags
    buildings = read_mask(flags.buildings)
    places = pixels_of(job, flags.tx, buildings.shape)
    measured = measurements_of(job, buildings.shape)
    stems = [f"predicted_{x:g}_{y:g}" for x, y in flags.tx]
    results = Results(job, "predicted", stems, several=flags.samples > 1)
    results.write(predicted(job, buildings, places, measured), buildings, places)


def complete(job: Job) -> None:
    """One map from measurements, by a second stage or descent on a first one's z."""
    flags, run = job.flags, job.codec
    buildings = None if flags.buildings is None else read_mask(flags.buildings)
    conditioned = isinstance(run, predictor.Predictor)
    if conditioned and (buildings is None or flags.tx is None):
        raise ValueError(
            f"{run.description} predicts from --buildings and --tx: give both, or "
            "--method descent, which needs neither"
        )
    shape = run.training_size if buildings is None else buildings.shape
    places = pixels_of(job, flags.tx or [], shape)
    measured = measurements_of(job, shape)
    results = Results(job, "completed", ["completed"], several=flags.samples > 1)
    if conditioned:
        samples = predicted(job, buildings, places, measured)
    else:
        prior, rmse = job.prior_of(run)
        job.say_once(f"first stage's own error: {run.db.words(rmse)}")
        samples = completion.from_points(
            run,
            prior,
            *measured,
            shape,
            jax.random.key(flags.seed),
            noise=max(rmse, completion.LEAST_NOISE),
            samples=flags.samples,
            steps=flags.steps,
            buildings=buildings,
            tx=places,
        )[:, None]
    nothing = np.zeros(shape, np.uint8)
    inside = nothing if buildings is None else buildings
    results.write(samples, inside, places, points=measured[0])


def predicted(
    job: Job, buildings: np.ndarray, places: np.ndarray, measured
) -> Float[np.ndarray, "samples n h w 1"]:
    """Returns f of a second stage's samples for every transmitter."""
    flags = job.flags
    return job.codec.predict(
        buildings,
        places,
        jax.random.key(flags.seed),
        calls=flags.calls,
        samples=flags.samples,
        cars=None if flags.cars is None else read_mask(flags.cars),
        measurements=measured,
        unit="f",
    )[..., None]


def pixels_of(job: Job, points, shape: tuple[int, int]) -> np.ndarray:
    """Returns points of the command line or a file, [n, 2], as column and row."""
    return conditions.to_pixels(
        points,
        job.flags.tx_frame,
        height=shape[0],
        pixel_metres=job.pixel_metres,
    )


def measurements_of(job: Job, shape: tuple[int, int]):
    """Returns (points, f) of --measurements, or None."""
    flags, db = job.flags, job.codec.db
    if flags.measurements is None:
        return None
    points, values = read_points(flags.measurements)
    f = radiomap.db_to_f(values, db) if flags.unit == "db" else values
    return pixels_of(job, points, shape), f


class Results:
    """The files of maps made from conditions, claimed before the work."""

    def __init__(self, job: Job, name: str, stems: list[str], *, several: bool):
        self.job, self.name, self.stems = job, name, stems
        self.as_scene = job.flags.format == "npz"
        files_of = [name] if self.as_scene else stems
        self.maps = job.free(f"{stem}.{job.flags.format}" for stem in files_of)
        apart = [] if self.as_scene else stems * several
        self.deviations = job.free(f"{stem}_deviation.npy" for stem in apart)
        (self.picture,) = job.free([f"{name}.png"])

    def write(
        self,
        samples: Float[np.ndarray, "samples n h w 1"],
        buildings: np.ndarray,
        tx: np.ndarray,
        points: np.ndarray | None = None,
    ) -> None:
        """Writes mean and deviation of the samples, and a picture of them."""
        job, count, mean = self.job, len(samples), samples.mean(axis=0)
        db, unit = job.codec.db, job.flags.unit
        deviation = samples.std(axis=0, ddof=1) if count > 1 else None
        if self.as_scene:
            mapfiles.write_predictions(
                self.maps[0],
                mean,
                deviation_f=deviation,
                buildings=buildings > 0,
                tx=tx,
                pixel_metres=job.pixel_metres,
                db=db,
            )
        else:
            write_maps(job, self.maps, mean)
            if deviation is not None:
                in_unit = db.span * deviation if unit == "db" else deviation
                for path, one in zip(self.deviations, in_unit, strict=True):
                    mapfiles.write_array(path, one[..., 0])
        title = f"mean of {count}" if count > 1 else self.name
        names = [f"transmitter at ({x:g}, {y:g})" for x, y in tx]
        figure = plots.predictions(
            {title: mean},
            buildings=np.stack([buildings[..., None] > 0] * len(mean)),
            tx=tx,
            names=names or ["measurements"],
            points=points,
            deviation_f=deviation,
            db=db,
        )
        plots.save(figure, self.picture)


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Returns a mask [h, w] of a PNG (255 inside) or NPY.

    Raises a ValueError, with the file, for what is none.
    """
    try:
        return predictor.to_mask(radiomap.read_map(path)[..., 0], "the pixels")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_points(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (x, y) and values of a CSV of x, y, value, with a line of names or not.

    Raises a ValueError for lines that hold no three numbers.
    """
    points = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        cells = line.replace(";", ",").split(",")
        try:
            x, y, value = map(float, cells)
        except ValueError:
            if (
                number == 1 and any(cell.strip() for cell in cells)
            ) or not line.strip():
                continue  # the names of the columns
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} is not x,y,value (column, row "
                "from the top, dB)"
            ) from None
        points.append((x, y, value))
    if not points:
        raise ValueError(f"{path} holds no measurements; leave --measurements out")
    array = np.array(points)
    return array[:, :2], array[:, 2]


def padded(count: int, digits: int) -> list[str]:
    """Returns the numbers below count, in as many digits as sorts them by name."""
    digits = max(digits, len(str(count - 1)))
    return [f"{i:0{digits}d}" for i in range(count)]


def targets(path: pathlib.Path, form: str) -> list[str]:
    """Returns the names of the files that a reconstructed file becomes."""
    suffix = path.suffix.lower() if form == "same" else f".{form}"
    if suffix == ".npz" or path.suffix.lower() != ".npz":
        return [path.stem + suffix]
    return [name + suffix for name in mapfiles.names(path)]


def write_maps(job: Job, paths: Sequence[pathlib.Path], maps: Maps) -> None:
    check_finite(paths, maps)
    for path, f in zip(paths, maps, strict=True):
        mapfiles.write_map(path, f, unit=job.flags.unit, db=job.codec.db)


def check_finite(names: Sequence[object], maps: Maps) -> None:
    """Raises a ValueError, before any is written, if a decoded map is not finite."""
    for name, f in zip(names, maps, strict=True):
        if not np.isfinite(f).all():
            raise ValueError(
                f"{name}: decoded to values that are not finite, and not written: "
                "encode the map again, or take another --step"
            )


def read(job: Job, path: pathlib.Path) -> MapFile:
    if path.suffix.lower() == ".npz":
        job.codec.check_unit("db")  # it holds path gains
    held = mapfiles.read(path, unit=job.flags.unit, db=job.codec.db)
    job.codec.check_channels(held.f.shape[-1], path)
    clipped = held.clipped.words(job.codec.db)
    if clipped:
        job.say_once(f"{path}: {clipped}")
    return held


def posterior(job: Job, f: Float[np.ndarray, "h w c"]) -> list[np.ndarray]:
    """Returns mean and logvar of one map, [p, q, z] each."""
    of_one = job.codec.encode(f[None], resize=job.flags.size)
    return [np.asarray(part)[0] for part in of_one]


def decoded(job: Job, z: Float[Array, "p q z"], sizes: Sizes) -> np.ndarray:
    """Returns f of one map, [h, w, c]."""
    return job.codec.decode(z[None], size=sizes)[0]


def sizes_of(job: Job, held: MapFile) -> Sizes:
    """Decides at which size a file's maps pass, and says what is special about it."""
    stored, codec = held.f.shape[1:3], job.codec
    maps = f"maps of {by(stored)}:"
    try:
        sizes = codec.sizes(stored, job.flags.size)
    except ValueError as error:
        raise ValueError(f"{held.path}: {error}") from error
    if sizes.network != stored:
        job.say_once(f"{maps} resized to {by(sizes.network)} and back")
    elif sizes.network != codec.training_size:
        job.say_once(
            f"{maps} the training's size is {by(codec.training_size)} "
            f"({codec.size_field}); GroupNorm's statistics are of the whole map, "
            "so at another size the error may be larger than the evaluation's"
            + ("; --size training resizes" if codec.image_size else "")
        )
    rows, columns = codec.padding(sizes)
    if rows or columns:
        job.say_once(
            f"{maps} {rows} rows and {columns} columns mirrored at the end, for a "
            f"multiple of {codec.factor}, and cut off again"
        )
    return sizes


def latent_sizes(job: Job, held: latent_files.LatentFile) -> Sizes:
    """Returns the sizes of a file's maps; where it lacks them, the latents' own."""
    height, width = (side * job.codec.factor for side in held.z.shape[1:3])
    network = held.network or (height, width)
    return Sizes(held.stored or network, network)


def bar(items: Iterable, unit: str) -> Iterable:
    return Bar(list(items), unit=unit.removesuffix("s"), desc=unit)


def say(text: str) -> None:
    """Prints a line above the progress bar."""
    Bar.write(cli.shown(text))


def by(sides: Iterable[int]) -> str:
    return "x".join(map(str, sides))
