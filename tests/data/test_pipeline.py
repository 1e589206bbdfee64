import itertools
import json
import threading

import numpy as np
import pytest

from radiovae_jax.data import folder, pipeline, radiomap, radiomapseer, sources


class Numbers:
    """Records that show what became of them: pixel (i, j) of record n is (n, i, j)."""

    def __init__(self, count=10, shape=(4, 4)):
        self.shape = (*shape, 3)
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        number = range(self._count)[index]
        rows, columns = np.indices(self.shape[:2])
        image = np.stack([np.full_like(rows, number), rows, columns], axis=-1)
        image = image.astype(np.uint8)
        return {"name": np.str_(number), "gray": image, "antenna": image[..., 1:]}

    def summary(self):
        return f"{self._count} numbers"


def stream(source=None, **options):
    options = {"batch_size": 4, "seed": 0, "augment": "none", **options}
    return pipeline.train_batches(source or Numbers(), **options)


def take(count, source=None, **options):
    batches = stream(source, **options)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def names(batches):
    return np.concatenate([batch["name"] for batch in batches]).tolist()


def assert_same(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_batch_stacks_the_fields_of_records_and_keeps_their_types():
    (batch,) = take(1)
    assert batch["gray"].shape == (4, 4, 4, 3) and batch["gray"].dtype == np.uint8
    assert batch["antenna"].shape == (4, 4, 4, 2)
    assert batch["name"].dtype.kind == "U"
    for name, gray, antenna in zip(*batch.values(), strict=True):
        assert (gray[..., 0] == int(name)).all() and (gray[..., 1:] == antenna).all()


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own():
    # 10 records in batches of 4: batches run across the ends of epochs.
    order = names(take(15))
    epochs = [order[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch, key=int) == list(map(str, range(10))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # A batch larger than the data set: two whole epochs, and two records of a third.
    (batch,) = take(1, Numbers(3), batch_size=8)
    assert sorted(np.unique(batch["name"], return_counts=True)[1]) == [2, 3, 3]


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_processes_rows_together_are_the_batch_of_one_process(process_count):
    options = {"augment": "dihedral", "crop": 3}
    parts = [
        take(8, process_index=index, process_count=process_count, **options)
        for index in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in rows]) for key in rows[0]}
        for rows in zip(*parts, strict=True)
    ]
    assert_same(joined, take(8, **options))


def test_a_resumed_stream_goes_on_as_if_never_interrupted_whatever_the_threads():
    unbroken = take(12, augment="dihedral", threads=0, prefetch=0)
    assert_same(take(12, augment="dihedral", threads=4, prefetch=8), unbroken)
    for start in (1, 7):
        rest = take(5, augment="dihedral", start=start)
        assert_same(rest, unbroken[start : start + 5])
    assert names(take(12, augment="dihedral", seed=1)) != names(unbroken)


def test_the_saved_position_is_that_of_the_last_batch_taken_not_prefetched():
    batches = stream(augment="dihedral", prefetch=6)
    list(itertools.islice(batches, 3))
    assert batches.position == 3
    state = json.loads(json.dumps(batches.get_state()))
    expected = list(itertools.islice(batches, 4))
    other = stream(augment="dihedral")
    next(other)
    for one in (other, batches):  # rewinding the first one works as well
        one.set_state(state)
        assert one.position == 3
        assert_same(list(itertools.islice(one, 4)), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 2}, r"counts batches of batch_size=4, this stream has .*=2"),
        ({"seed": 1}, r"seed=0, this stream has seed=1: restore seed"),
        ({"source": Numbers(11)}, r"records=10, this stream has records=11"),
    ],
)
def test_a_position_of_another_stream_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options).set_state(stream().get_state())


def test_the_dihedral_augmentation_makes_all_eight_symmetries_equally_often():
    batches = take(100, Numbers(100), augment="dihedral")
    gray = np.concatenate([batch["gray"] for batch in batches])
    pixels = np.ascontiguousarray(gray[..., 1:]).astype(np.int64)
    found = [image.tobytes() for image in pixels]
    grid = np.stack(np.indices((4, 4)), axis=-1)  # turned by np's own flips and turns
    flips = (grid, grid[:, ::-1])
    eight = {np.rot90(one, turns).tobytes() for one in flips for turns in range(4)}
    assert set(found) == eight
    counts = [found.count(one) for one in eight]
    # 400 draws from 8: 50 each, standard deviation 6.6; five of them.
    assert 17 < min(counts) and max(counts) < 83


def test_flips_are_left_to_right_and_none_leaves_the_maps_alone():
    grid = np.stack(np.indices((4, 4)), axis=-1)
    for batch in take(5):
        assert (batch["gray"][..., 1:] == grid).all()
    found = np.concatenate([batch["gray"] for batch in take(20, augment="flip")])
    flipped = (found[..., 1:] == grid[:, ::-1]).all(axis=(1, 2, 3))
    whole = (found[..., 1:] == grid).all(axis=(1, 2, 3))
    assert (flipped ^ whole).all()
    assert 20 < flipped.sum() < 60  # 80 draws, standard deviation 4.5


def test_crops_are_windows_from_everywhere_and_all_images_are_turned_alike():
    corners = set()
    for batch in take(40, Numbers(shape=(4, 5)), crop=3):
        assert batch["gray"].shape == (4, 3, 3, 3)
        for image in batch["gray"]:
            window = np.stack(np.indices((3, 3)), axis=-1) + image[0, 0, 1:]
            np.testing.assert_array_equal(image[..., 1:], window)
            corners.add(tuple(image[0, 0, 1:].tolist()))
    assert corners == {(top, left) for top in range(2) for left in range(3)}
    for batch in take(10, augment="dihedral", crop=3):
        np.testing.assert_array_equal(batch["gray"][..., 1:], batch["antenna"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 6, "process_count": 4}, r"6 .*not a multiple of the 4"),
        ({"augment": "flips"}, r"unknown augment 'flips': did you mean 'flip'"),
        ({"crop": 5}, r"crop 5 does not fit maps of 4x4; 0 takes the whole map"),
        (
            {"source": Numbers(shape=(4, 6)), "augment": "dihedral"},
            r"square maps and these are 4x6; set augment",
        ),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        take(1, **options)


def test_an_error_in_a_reading_thread_reaches_the_caller_with_its_words(tmp_path):
    for number in range(4):
        radiomap.write_png(tmp_path / f"{number}.png", np.zeros((8, 8), np.uint8))
    source = folder.MapFolder(tmp_path, split="all")
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2.png is empty; copy it again"):
        take(2, source)


def test_evaluation_reads_every_record_once_in_order_and_marks_the_filling():
    batches = list(pipeline.eval_batches(Numbers(10), batch_size=4))
    assert names(batches) == [*map(str, range(10)), "9", "9"]
    masks = [batch["mask"].tolist() for batch in batches]
    assert masks == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert batches[0]["mask"].dtype == np.float32


def test_evaluation_gives_every_process_as_many_batches():
    first, second = (
        list(
            pipeline.eval_batches(
                Numbers(5), batch_size=4, process_count=2, process_index=index
            )
        )
        for index in range(2)
    )
    # Rows of the global batches 0123 and 4444, where only the first 4 is real.
    assert names(first) == ["0", "1", "4", "4"]
    assert names(second) == ["2", "3", "4", "4"]
    assert [batch["mask"].tolist() for batch in second] == [[1, 1], [0, 0]]


def test_sources_are_opened_by_their_kind(city):
    source = sources.open_source("radiomapseer", city, split="val", fields=("gray",))
    assert isinstance(source, radiomapseer.RadioMapSeer)
    numbers = dict(maps=10, transmitters=2, size=64, seed=0)
    source = sources.open_source("synthetic", city, split="test", **numbers)
    assert source.summary().startswith(
        "synthetic city DPM, split test: 2 images of 1 maps of 64x64x1, in "
    )
    with pytest.raises(ValueError, match=r"unknown data.source 'radiomapsee': did you"):
        sources.open_source("radiomapsee", city, split="val")
    with pytest.raises(TypeError, match="unexpected keyword argument 'maps'"):
        sources.open_source("radiomapseer", city, split="val", maps=3)


def test_closing_stops_the_reading_threads():
    before = set(threading.enumerate())
    batches = stream()
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)
