"""A step at its smallest, 16x16 without down-sampling, as the config builds it."""

import jax
import jax.numpy as jnp
import optax
import tiny

from radiovae_jax.data.batch import bare
from radiovae_jax.vae import experiment, train_step

KEY = jax.random.key(7)


def mean_square(weights, x, y):
    """The goldens' kind of perceptual distance."""
    return jnp.mean((x - y) ** 2, axis=(1, 2, 3))


def build(perceptual_weight=0.0, *, train=(), optimizer=(), **loss):
    """Returns an experiment with these fields of the config; its state at step 5."""
    config = tiny.config("unused")
    config.autoencoder.update(ch_mult=(1,), mid_attention=False)
    config.loss.update(disc_num_layers=1, **loss)
    config.train.update(**dict(train))
    config.optimizer.update(**dict(optimizer))
    built = experiment.build(config, (16, 16, 1))
    built = built._replace(
        networks=built.networks._replace(perceptual=mean_square),
        settings=built.settings._replace(perceptual_weight=perceptual_weight),
    )
    state = experiment.drawn_state(config, built, jax.random.key(0))
    # Large enough for d_weight to stay below its clamp.
    state = state._replace(
        step=jnp.asarray(5),
        disc_params=jax.tree.map(lambda p: 5 * p, state.disc_params),
    )
    return built, state


def random_batch(weights=0, cond=0, size=2):
    keys = jax.random.split(jax.random.key(1), 3)
    shape = (size, 16, 16)
    return bare(
        jax.random.uniform(keys[0], (*shape, 1), minval=-1.0),
        weights=jax.random.uniform(keys[1], (*shape, weights)),
        cond=jax.random.uniform(keys[2], (*shape, cond)),
    )


def compiled(built, *, adversarial=True):
    """Returns (state, batch) -> (state, logs)."""

    @jax.jit
    def step(state, batch, key):
        return train_step.train_step(
            built, (), state, batch, key, adversarial=adversarial
        )

    return lambda state, batch: step(state, batch, KEY)


def length(tree):
    return float(optax.tree.norm(tree))
