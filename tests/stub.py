"""Executables that count steps and train nothing, for tests of the loop around them.

`compiled` takes the place of `train.compile_all`, and so of minutes of compilation.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from radiovae_jax import metrics
from radiovae_jax.training.judging import Compiled
from radiovae_jax.vae import validate

LOGGED = (
    "total_loss logvar kl_loss nll_loss rec_loss d_weight disc_factor g_loss disc_loss "
    "logits_real logits_fake learning_rate skipped skipped_in_row"
).split()


class Step:
    """As `distributed.BarrierJit`, with nothing to compile."""

    def __init__(self, function: Callable):
        self._function, self.ready = function, False

    def make_ready(self, *_) -> None:
        self.ready = True

    def __call__(self, *arguments):
        return self._function(*arguments)


def compiled(
    *,
    nmse: Callable[[int], float] = lambda step: 1 / step,
    kl: Callable[[int], float] = lambda step: 100.0,
    power: float = 1.0,
    bad: Callable[[int, float], bool] = lambda step, rate: False,
    at: tuple[int, Callable[[], None]] = (0, lambda: None),
):
    """Returns what makes executables of which each number is known.

    Args:
      nmse: of the validation after so many steps.
      power: of the validation maps; 0: they have none, and no NMSE.
      kl: nats an image, of the training's steps and of the validation.
      bad: whether a step at this learning rate is not finite.
      at: a step, and what happens while it is taken.
    """

    def make(config, built, mesh, places) -> Compiled:
        def advance(state, skip: int):
            logvar = state.params["logvar"] + (1 - skip)
            in_row = (state.skipped_in_row + 1) * skip
            return state._replace(
                step=state.step + 1,
                params=state.params | {"logvar": logvar},
                skipped=state.skipped + skip,
                skipped_in_row=in_row,
            )

        def step(state, raw, key):
            done = int(state.step) + 1
            if done == at[0]:
                at[1]()
                time.sleep(0.2)  # until the listening thread has heard of it
            rate = float(built.schedules.learning_rate(state.step))
            state = advance(state, int(bad(done, rate)))
            logs = dict.fromkeys(LOGGED, jnp.zeros(())) | {
                "kl_loss": jnp.asarray(kl(done)),
                "learning_rate": jnp.asarray(rate),
                "skipped": state.skipped,
                "skipped_in_row": state.skipped_in_row,
            }
            return state, logs

        def judge(state, raw):
            images = jnp.sum(raw["mask"])
            done = int(state.step)
            sums = metrics.Sums(*[images * jnp.ones(())] * len(metrics.Sums._fields))
            totals = validate.Totals(
                sums._replace(
                    nmse=images * nmse(done) * power,
                    squared_error=images * nmse(done),
                    nmse_images=images * power,
                    power=images * power,
                ),
                {"kl_loss": images * kl(done)},
                images,
            )
            return totals, raw["gray"] / 255.0, raw["gray"] / 255.0

        def sample(state, key):
            return jax.random.uniform(key, (config.train.images, 32, 32, 1))

        def latents(state, raw):
            return {"mean": jnp.zeros((2, 4, 4, 3)), "logvar": jnp.zeros((2, 4, 4, 3))}

        return Compiled(
            step={adversarial: Step(step) for adversarial in (False, True)},
            validate=dict.fromkeys((False, True), judge),
            sample=sample,
            latents=latents,
        )

    return make
