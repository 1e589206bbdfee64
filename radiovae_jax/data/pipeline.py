"""Sources to batches, with Grain: shuffled, augmented, sharded, resumable.

The stream of training examples is a function of (seed, position) alone. Global
batch k holds positions k * batch_size to (k + 1) * batch_size - 1 of it, and process
p of n holds the p-th of n equal runs of those rows, so that the processes' rows put
together are the batch one process would have made.
"""

from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from radiovae_jax.data import augmentation, batch
from radiovae_jax.data.sources import Record, Source

Batch = dict[str, np.ndarray]

# Examples of an "endless" stream: at a million a second, nine years. Grain's own
# endless repeat overflows when the batch of a process is a single row.
_ENDLESS = 2**48


class TrainBatches:
    """Endless training batches of `train_batches`; an iterator that knows where it is.

    Attributes:
      position: number of the next global batch, however many are prefetched.
    """

    def __init__(
        self,
        batches: grain.MapDataset,  # this process's rows of every global batch
        options: grain.ReadOptions,
        stamp: Mapping[str, int],  # what a saved position is only good for
        start: int,
    ):
        self._batches, self._options, self._stamp = batches, options, dict(stamp)
        self._start(start)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self.position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns what set_state needs to go on from here: integers, for JSON."""
        return {"position": self.position, **self._stamp}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on exactly where another iterator of the same stream stood."""
        for key, value in self._stamp.items():
            if state.get(key) != value:
                raise ValueError(
                    f"the saved position counts batches of {key}={state.get(key)}, "
                    f"this stream has {key}={value}: restore {key}"
                )
        self.close()
        self._start(state["position"])

    def close(self) -> None:
        """Stops the reading threads."""
        getattr(self._iterator, "close", lambda: None)()  # not in grain 0.2.12

    def _start(self, position: int) -> None:
        rest = self._batches[position:]
        self._iterator = iter(rest.to_iter_dataset(self._options))
        self.position = position


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    augment: str,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
    crop: int = 0,
    threads: int = 2,
    prefetch: int = 4,
) -> TrainBatches:
    """Returns an endless iterator of batches, reshuffled every epoch.

    Nothing is dropped: batches run across the ends of epochs, and one larger than the
    data set holds records more than once.

    Args:
      batch_size: examples of a step over all processes.
      seed: decides the order, the augmentation and the crops.
      augment: "none", "flip" (left-right, half of the time) or "dihedral" (the eight
        flips and quarter turns, of square maps), alike for all images of a record.
      process_count: each process yields its rows of the global batch.
      start: number of global batches already consumed.
      crop: side of a random square window; 0 is the whole map.
      prefetch: batches that are read ahead.
    """
    rows = _local_rows(batch_size, process_count)
    transform = augmentation.transform(augment, crop=crop, shape=source.shape)
    # Grain mixes the epoch into the shuffle and the position into the transform's
    # generator, so both are functions of (seed, position) and of nothing else.
    examples = grain.MapDataset.source(source).seed(seed).shuffle()
    examples = examples.repeat(_ENDLESS // len(source))
    batches = examples.random_map(transform).batch(rows, batch_fn=stack)
    mine = batches[process_index::process_count]
    stamp = {"seed": seed, "batch_size": batch_size, "records": len(source)}
    return TrainBatches(mine, _read_options(threads, prefetch), stamp, start)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Returns every record once, in order, in batches of one size.

    The last batch is filled up with the last record; "mask" [b] is 1 for a record
    and 0 for filling. Every process yields the same number of batches.
    """
    rows = _local_rows(batch_size, process_count)
    total = -(-len(source) // batch_size) * batch_size

    def read(position: int) -> Record:
        record = source[min(position, len(source) - 1)]
        return {**record, "mask": batch.padding_mask(position, len(source))}

    batches = grain.MapDataset.range(total).map(read).batch(rows, batch_fn=stack)
    mine = batches[process_index::process_count]
    return iter(mine.to_iter_dataset(_read_options(threads, prefetch)))


def stack(records: Sequence[Record]) -> Batch:
    """Returns the records' fields, of one shape each, with a batch axis in front."""
    return {key: np.stack([record[key] for record in records]) for key in records[0]}


def _local_rows(batch_size: int, process_count: int) -> int:
    """Returns how many rows of a global batch each process holds."""
    if batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} (over all processes) is not a multiple of the "
            f"{process_count} processes"
        )
    return batch_size // process_count


def _read_options(threads: int, prefetch: int) -> grain.ReadOptions:
    return grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, prefetch)
    )
