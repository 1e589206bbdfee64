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
        return {"name": np.str_(number), "gray": image, "antenna": image[..., :1] * 2}

    def summary(self):
        return f"{self._count} numbers"


def take(count, source=None, **options):
    options = {"batch_size": 4, "seed": 0, "augment": "none", **options}
    batches = pipeline.train_batches(source or Numbers(), **options)
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


def test_a_batch_stacks_the_fields_and_keeps_their_types():
    (batch,) = take(1)
    assert batch["gray"].shape == (4, 4, 4, 3)
    assert batch["antenna"].shape == (4, 4, 4, 1)
    assert batch["gray"].dtype == np.uint8
    assert batch["name"].dtype.kind == "U"
    # The name, the image and the mask of a row are of one record.
    for name, gray, antenna in zip(*batch.values(), strict=True):
        assert (gray[..., 0] == int(name)).all()
        assert (antenna[..., 0] == 2 * int(name)).all()


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own():
    # 10 records in batches of 4: batches run across the ends of epochs.
    order = names(take(15))
    epochs = [order[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch, key=int) == list(map(str, range(10))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_the_stream_is_a_function_of_the_seed():
    options = {"augment": "dihedral", "crop": 2}
    assert_same(take(8, **options), take(8, **options))
    assert names(take(8, **options)) != names(take(8, seed=1, **options))


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


def test_the_saved_position_is_that_of_the_last_batch_taken_not_prefetched():
    options = {"batch_size": 4, "seed": 0, "augment": "dihedral", "prefetch": 6}
    batches = pipeline.train_batches(Numbers(), **options)
    list(itertools.islice(batches, 3))
    assert batches.position == 3
    state = json.loads(json.dumps(batches.get_state()))
    expected = list(itertools.islice(batches, 4))
    other = pipeline.train_batches(Numbers(), **options)
    next(other)
    other.set_state(state)
    assert other.position == 3
    assert_same(list(itertools.islice(other, 4)), expected)
    # Rewinding the first one works as well.
    batches.set_state(state)
    assert_same(list(itertools.islice(batches, 4)), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 2}, r"counts batches of batch_size=4, this stream has .*=2"),
        ({"seed": 1}, r"seed=0, this stream has seed=1: restore seed"),
        ({"source": Numbers(11)}, r"records=10, this stream has records=11"),
    ],
)
def test_a_position_of_another_stream_is_refused(options, message):
    common = {"batch_size": 4, "seed": 0, "augment": "none"}
    state = pipeline.train_batches(Numbers(), **common).get_state()
    source = options.pop("source", Numbers())
    other = pipeline.train_batches(source, **{**common, **options})
    with pytest.raises(ValueError, match=message):
        other.set_state(state)


def test_a_batch_larger_than_the_data_set_repeats_records():
    (batch,) = take(1, Numbers(3), batch_size=8)
    counts = np.unique(batch["name"], return_counts=True)[1]
    # Two whole epochs of three, and two records of a third.
    assert sorted(counts) == [2, 3, 3]


def symmetries():
    """The eight images of the pixel grid, as np's own flips and turns make them."""
    image = np.stack(np.indices((4, 4)), axis=-1)
    flips = (image, image[:, ::-1])
    return {np.rot90(one, turns).tobytes() for one in flips for turns in range(4)}


def test_the_dihedral_augmentation_makes_all_eight_symmetries_equally_often():
    batches = take(100, Numbers(100), augment="dihedral")
    gray = np.concatenate([batch["gray"] for batch in batches])
    pixels = np.ascontiguousarray(gray[..., 1:]).astype(np.int64)
    found = [image.tobytes() for image in pixels]
    assert set(found) == symmetries()
    counts = [found.count(one) for one in symmetries()]
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


def test_all_images_of_a_record_are_turned_and_cropped_alike():
    class Pair(Numbers):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            return {**record, "antenna": record["gray"][..., 1:]}

    for batch in take(10, Pair(), augment="dihedral", crop=3):
        np.testing.assert_array_equal(batch["gray"][..., 1:], batch["antenna"])


def test_crops_are_windows_of_the_map_from_everywhere():
    corners = set()
    for batch in take(40, Numbers(shape=(4, 5)), crop=3):
        assert batch["gray"].shape == (4, 3, 3, 3)
        for image in batch["gray"]:
            top, left = image[0, 0, 1:].tolist()
            window = np.stack(np.indices((3, 3)), axis=-1) + image[0, 0, 1:]
            np.testing.assert_array_equal(image[..., 1:], window)
            corners.add((top, left))
    assert corners == {(top, left) for top in range(2) for left in range(3)}


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"batch_size": 6, "process_count": 4},
            r"6 .*not a positive multiple of the 4",
        ),
        ({"batch_size": 0}, r"batch_size 0 .*not a positive multiple of the 1"),
        ({"process_index": 1}, r"process_index 1 is not below 1"),
        ({"augment": "flips"}, r"unknown augment 'flips': did you mean 'flip'"),
        ({"crop": 5}, r"crop 5 does not fit maps of 4x4; 0 takes the whole map"),
        ({"start": -1}, r"start=-1; expected the number of batches done"),
        ({"threads": -1}, r"threads=-1 and prefetch=4; expected 0 or more"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        take(1, **options)


def test_quarter_turns_of_maps_that_are_not_square_are_refused():
    source = Numbers(shape=(4, 6))
    with pytest.raises(ValueError, match=r"square maps and these are 4x6; set augment"):
        take(1, source, augment="dihedral")
    assert take(1, source, augment="flip")[0]["gray"].shape == (4, 4, 6, 3)
    assert take(1, source, augment="dihedral", crop=4)[0]["gray"].shape == (4, 4, 4, 3)


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
    two = dict(batch_size=4, process_count=2)
    parts = [
        list(pipeline.eval_batches(Numbers(5), process_index=index, **two))
        for index in range(2)
    ]
    # Rows of the global batches 0123 and 4444, where only the first 4 is real.
    assert [names(part) for part in parts] == [
        ["0", "1", "4", "4"],
        ["2", "3"] + 2 * ["4"],
    ]
    assert [batch["mask"].tolist() for batch in parts[1]] == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"5 .*not a positive multiple of the 2"):
        pipeline.eval_batches(Numbers(), batch_size=5, process_count=2)


def test_maps_of_two_sizes_in_a_batch_are_named():
    records = [
        {"name": np.str_("a"), "gray": np.zeros((4, 4, 1))},
        {"name": np.str_("b"), "gray": np.zeros((4, 5, 1))},
    ]
    with pytest.raises(ValueError, match=r"'gray' of b has shape \(4, 5, 1\) .* of a "):
        pipeline.stack(records)


def test_sources_are_opened_by_their_kind(city):
    source = sources.open_source("radiomapseer", city, split="val", fields=("gray",))
    assert isinstance(source, radiomapseer.RadioMapSeer)
    numbers = dict(maps=10, transmitters=2, size=64, seed=0)
    source = sources.open_source("synthetic", city, split="test", **numbers)
    assert source.summary().startswith(
        "synthetic city DPM, split test: 2 images of 1 maps of 64x64x1, in "
    )
    source = sources.open_source("folder", city / "gain" / "DPM", split="all")
    assert (len(source), source.shape) == (20, (64, 64, 1))
    with pytest.raises(ValueError, match=r"unknown data.source 'radiomapsee': did you"):
        sources.open_source("radiomapsee", city, split="val")
    with pytest.raises(TypeError, match="unexpected keyword argument 'maps'"):
        sources.open_source("radiomapseer", city, split="val", maps=3)


def test_real_maps_are_read_and_turned_by_the_pipeline(realmaps):
    source = radiomapseer.RadioMapSeer(realmaps, fields=("gray", "buildings"))
    (batch,) = take(1, source, batch_size=8, augment="dihedral")
    assert batch["gray"].shape == batch["buildings"].shape == (8, 256, 256, 1)
    # Wherever the buildings were turned to, the gain under them is (nearly) 0: 2 to 5
    # gray levels on these maps, from the outermost pixels.
    assert batch["gray"][batch["buildings"] == 255].mean() < 10


def test_closing_stops_the_reading_threads():
    before = set(threading.enumerate())
    batches = pipeline.train_batches(Numbers(), batch_size=2, seed=0, augment="none")
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)
