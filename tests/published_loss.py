"""Runs our objective on the tensors of a golden loss file (see golden/README)."""

import golden
import jax
import jax.numpy as jnp

from radiovae_jax import losses, objectives, torch_weights, train_step
from radiovae_jax.data.batch import bare
from radiovae_jax.models.discriminator import PatchDiscriminator
from radiovae_jax.models.posterior import DiagonalGaussian

# Fields of our batch and their names in the files; each file has what it uses.
MASKS = {
    "weights": "weights",
    "cond": "cond",
    "k2_neg_norm": "k2_neg_norm",
    "transmitter": "Tx_pos_mask",
}


def run(arrays: dict, step: int, objective: objectives.Objective):
    """Returns the gradients and the logged numbers of one step."""
    config = arrays["config"]
    masks = {ours: arrays[name] for ours, name in MASKS.items() if name in arrays}
    batch = bare(jnp.asarray(arrays["inputs"]), **jax.tree.map(jnp.asarray, masks))
    disc = torch_weights.discriminator_from_torch(golden.below(arrays, "disc/"))
    network = PatchDiscriminator(
        in_channels=1 + batch.cond.shape[-1], ndf=4, num_layers=3
    )
    settings = train_step.LossSettings(
        objective=objective,
        disc_loss=config["disc_loss"],
        disc_factor=config["disc_factor"],
        disc_weight=config["disc_weight"],
        kl_weight=config["kl_weight"],
        perceptual_weight=config["perceptual_weight"],
        pixelloss_weight=1.0,
        loss_scale=1.0,
        fresh_reconstruction=False,
    )
    factor = losses.adopt_weight(config["disc_factor"], step, config["disc_start"])

    def terms_of(params):
        convolved = jax.lax.conv_general_dilated(
            jnp.asarray(arrays["hidden"]),
            params["kernel"],
            (1, 1),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = batch.image
        recon = x + 0.3 * (convolved + arrays["last_bias"].reshape(1, 1, 1, -1))
        distance = ((x - recon) ** 2 * (1 + jnp.abs(x))).mean(axis=(1, 2, 3))
        posterior = DiagonalGaussian.from_moments(jnp.asarray(arrays["moments"]))
        logits, moved = train_step.discriminate(
            network, disc["params"], disc["batch_stats"], recon, batch.cond
        )
        g, logvar = losses.generator(logits), params["logvar"]
        terms, means = train_step.loss_terms(
            batch, recon, posterior, distance, logvar, g, settings
        )
        return terms, train_step.Forward(recon, means, moved)

    params = {
        "kernel": jnp.asarray(arrays["last_kernel"]),
        "logvar": jnp.asarray(arrays["logvar"]),
    }
    grads, terms, forward, logs = train_step.pull_back(
        terms_of, params, lambda p: p["kernel"], factor, settings, adversarial=True
    )
    _, _, disc_logs = train_step.discriminator_gradient(
        network,
        disc["params"],
        disc["batch_stats"],
        batch,
        forward.recon,
        factor,
        settings,
    )
    return grads, forward.means | logs | disc_logs | {
        "logvar": params["logvar"],
        "kl_loss": terms.kl,
        "nll_loss": terms.balance.rec,
        "disc_factor": factor,
        "g_loss": terms.g,
    }
