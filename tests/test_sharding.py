"""Where arrays lie on the mesh, and what four devices send each other in a step."""

import json
import math
import pathlib
import subprocess
import sys

import command
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from radiovae_jax import sharding
from radiovae_jax.training import distributed

SCRIPT = pathlib.Path(__file__).with_name("four_devices.py")


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory):
    """Returns what four_devices.py prints: five adversarial steps on each mesh."""
    city = tmp_path_factory.mktemp("data") / "city"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(city)],
        env=command.environment(devices=4) | {"PYTHONPATH": str(command.PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sent(run, operation: str) -> list[int]:
    """Returns the sizes of the arrays that collectives of this kind return."""
    return [
        math.prod(shape)
        for name, shapes in run["collectives"]
        for shape in shapes
        if name == operation
    ]


def count(shapes) -> int:
    return sum(map(math.prod, shapes))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_four_devices_give_the_losses_of_one(four_devices, mesh):
    runs = four_devices["runs"]
    for one, four in zip(runs["one"]["logs"], runs[mesh]["logs"], strict=True):
        assert 0 < one["d_weight"] < 5000  # not at its clamp, where any two agree
        for name, value in one.items():
            assert four[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_a_data_parallel_step_sends_gradients_statistics_and_scalars_only(four_devices):
    run, shapes = four_devices["runs"]["data"], four_devices["shapes"]
    assert {operation for operation, _ in run["collectives"]} == {"all-reduce"}
    parameters = shapes["params"] + shapes["disc_params"]
    sizes = [math.prod(shape) for shape in parameters]
    for _, returned in run["collectives"]:
        for shape in returned:
            # A vector is a bias's gradient or the channels of a normalisation; of a
            # kernel the gradient may still be a matrix.
            vector = sum(length > 1 for length in shape) < 2
            assert math.prod(shape) in sizes or vector
    # The last layer's gradient is needed of two terms alone, for d_weight; the
    # discriminator's of real and fake.
    last = math.prod([3, 3, 32, 1])
    gradients = count(shapes["params"]) + 2 * last + 2 * count(shapes["disc_params"])
    # Of every BatchNorm channel the mean and the variance, in three passes (fake for
    # the generator, real, fake); on the way back at most the gradients of mean,
    # variance, scale and bias.
    channels = count(shapes["disc_stats"]) // 2
    statistics = (3 * 2 + 3 * 4) * channels
    scalars = sum(size == 1 for size in sent(run, "all-reduce"))
    assert scalars < 30
    assert sum(sent(run, "all-reduce")) <= gradients + statistics + scalars
    assert sum(sent(run, "all-reduce")) >= count(parameters)


@pytest.mark.slow
def test_an_fsdp_step_gathers_each_split_parameter_once_and_nothing_else(four_devices):
    run, shapes = four_devices["runs"]["fsdp"], four_devices["shapes"]
    assert {name for name, _ in run["collectives"]} == {"all-reduce", "all-gather"}
    split = [
        shape
        for shape in shapes["params"] + shapes["disc_params"]
        if sharding.rule(tuple(shape), 4) != PartitionSpec()
    ]
    assert sum(sent(run, "all-gather")) == count(split)
    # What is reduced is what is reduced without fsdp, but for the scalars: every part's
    # squares are summed for the logged norms.
    data = four_devices["runs"]["data"]
    reduced, wanted = (
        sum(size for size in sent(one, "all-reduce") if size > 1) for one in (run, data)
    )
    assert reduced == wanted


@pytest.mark.slow
def test_each_of_four_devices_holds_a_quarter_of_every_large_array(four_devices):
    runs = four_devices["runs"]
    shapes = [shape for field in four_devices["shapes"].values() for shape in field]
    large = [shape for shape in shapes if math.prod(shape) >= sharding.SMALLEST_SPLIT]
    # Two 3x3 convolutions in each of seven blocks; average and two moments of each.
    assert len(large) == 4 * 2 * 7
    assert runs["data"]["held"] == runs["one"]["held"] == count(shapes)
    assert runs["fsdp"]["held"] == count(shapes) - 3 * count(large) // 4


@pytest.mark.slow
def test_checksums_do_not_depend_on_where_an_array_lies(four_devices):
    sums = four_devices["sums"]
    assert len(sums["one"]) == 8
    assert sums["one"] == sums["split"] == sums["copied"]


@pytest.mark.parametrize(
    "shape, fsdp, spec",
    [
        ((3, 3, 512, 256), 4, (None, None, "fsdp")),  # the longest
        ((3, 3, 512, 512), 4, (None, None, None, "fsdp")),  # the last of several
        ((3, 3, 510, 256), 4, (None, None, None, "fsdp")),  # 4 does not divide 510
        ((3, 3, 3, 128), 4, ()),  # small
        ((4096,), 4, ("fsdp",)),
        ((4095,), 3, ()),  # one number too small
        ((4097,), 4, ()),  # not divided
        ((), 4, ()),
        ((3, 3, 512, 256), 1, ()),
    ],
)
def test_the_rule_splits_the_longest_axis_of_a_large_array(shape, fsdp, spec):
    assert sharding.rule(shape, fsdp) == PartitionSpec(*spec)


def test_numbers_that_do_not_divide_are_named():
    # One device here.
    with pytest.raises(ValueError, match=r"train.fsdp=2 does not divide the 1 devices"):
        sharding.make_mesh(8, 2)
    assert sharding.make_mesh(8, 1).shape == {"data": 1, "fsdp": 1}
    assert [sharding.nearest(n, 4) for n in (1, 5, 6, 7, 8)] == [4, 4, 8, 8, 8]


def test_rows_come_back_in_their_order():
    mesh = sharding.make_mesh(4)
    batch = {"x": np.arange(8.0).reshape(4, 2), "name": np.array(list("abcd"))}
    placed = sharding.to_devices(batch, mesh)
    assert list(placed) == ["x"]
    np.testing.assert_array_equal(sharding.local(placed["x"]), batch["x"])


def test_what_was_made_ready_is_not_compiled_again(caplog):
    def doubled(first, x):
        return first + 2 * x

    together = distributed.BarrierJit(jax.jit(doubled), jnp.ones(3))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        together.make_ready(jnp.ones(3))
        compiled = caplog.text.count("XLA compilation of jit(doubled)")
        assert together.ready and compiled == 1
        np.testing.assert_array_equal(together(jnp.ones(3)), 3 * np.ones(3))
        assert caplog.text.count("XLA compilation of jit(doubled)") == compiled
