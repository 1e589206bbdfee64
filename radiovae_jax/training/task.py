"""What a stage of the model gives the engine: functions of arrays, and words.

The engine opens the data, compiles `step` and `validate`, and knows no more of a stage
than this. A state is a NamedTuple of arrays alone, with `step`, `ema`, `skipped` and
`skipped_in_row` among its fields: it is what a checkpoint holds.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Float, PyTree

from radiovae_jax.types import Array, PRNGKey

State = Any
Raw = Mapping[str, Array]  # a batch as the pipeline gives it, without names
Numbers = Mapping[str, float]
Names = tuple[str, ...]
# Of a fresh state: its hundred draws run once, and XLA took as long to compile them for
# a CPU as the step. The numbers are the same.
FAST_COMPILE_OPTIONS = {"xla_backend_optimization_level": 1}


class Limit(NamedTuple):
    """Logged numbers that end a run when they fall below a bound."""

    names: Names
    below: float  # 0: never
    what: str  # is wrong, with {name} and {value:.3g}
    remedy: str


def _nothing(*_: Any) -> dict:
    return {}


class Task(NamedTuple):
    """A stage, as `make(config, shape of the maps)` returns it.

    The functions of the second group are compiled by the engine and see global arrays,
    split over all devices along the batch; those of the third run on the host.

    Of what `metrics` returns, `best` and early stopping go by "best" if it is there,
    else by the pooled NMSE (see `metrics.deciding`); the lowest is the best.
    """

    constants: PyTree  # arrays that no step changes: LPIPS, a frozen first stage
    phase: Callable[[int], str]  # of the step with this number, from 0

    init: Callable[[PRNGKey], State]
    # For each phase (constants, state, raw, key) -> (next state, logged numbers).
    step: Mapping[str, Callable[..., tuple[State, Mapping[str, Float[Array, ""]]]]]
    # (constants, state, raw, phase) -> (sums to be added over the batches, examples:
    # arrays with the batch axis first, some of whose rows `figures` gets).
    validate: Callable[..., tuple[PyTree, Mapping[str, Array]]]
    # (constants, state, key) -> what is drawn for each validation's pictures; the
    # newest is kept in images/NAME.npy.
    sample: Callable[..., Mapping[str, Array]] = _nothing
    # (constants, state, raw) -> arrays with the batch axis first, shown as histograms.
    activations: Callable[..., Mapping[str, Array]] = _nothing
    # (constants, state, raw, key) -> what the forward pass of a micro-batch leaves for
    # its backward pass, for the memory that --dry_run counts; {} where it is not known.
    residuals: Mapping[str, Callable[..., PyTree]] = {}

    metrics: Callable[[PyTree, Mapping[str, Any]], dict[str, float]] = _nothing
    # (rows of examples, rows of the raw batches with their names, samples) -> Figures.
    figures: Callable[..., Mapping[str, Any]] = _nothing
    weights: Callable[[State], Mapping[str, PyTree]] = _nothing  # for histograms
    bar: Callable[[Numbers], Numbers] = _nothing  # logged numbers -> what the bar shows
    # Folder of another run, state or its shapes -> (state -> state with its weights).
    warm_start: Callable[[str, State], Callable[[State], State]] | None = None
    slowed: Callable[[float], "Task"] | None = None  # with all rates times a factor

    # Fields of the state that a step, and a validation, need whole on every device.
    step_gathers: Names = ()
    validation_gathers: Names = ()
    limits: tuple[Limit, ...] = ()
    plateau_since: int = 0  # validations up to this step are of an earlier phase
    dtype: str = "float32"  # of the computation
    # What a run, or --dry_run, says of itself at its start.
    parameters: Callable[[State], Mapping[str, PyTree]] = _nothing
    phases: str = ""
    schedules: Mapping[str, Callable[[int], Any]] = {}
    corners: Mapping[str, int] = {}  # steps at which the schedules have one
    keeps: Mapping[
        str, Any
    ] = {}  # JSON files that its run's folder gets: name -> content


def drawn(
    init: Callable[[PRNGKey], State], key: PRNGKey, places: State | None = None
) -> State:
    """Returns init(key), as one program that is compiled in little time.

    Args:
      places: sharding of every array of the state.
    """
    on_cpu = jax.default_backend() == "cpu"
    options = FAST_COMPILE_OPTIONS if on_cpu else None
    return jax.jit(init, out_shardings=places, compiler_options=options)(key)
