"""Runs our objective on the tensors of a golden loss file (see golden/README)."""

import golden
import jax
import jax.numpy as jnp
import tiny

from radiovae_jax import losses
from radiovae_jax.data.batch import bare
from radiovae_jax.interop import torch_weights
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import updates
from radiovae_jax.vae import adversary, experiment, objectives, train_step
from radiovae_jax.vae.discriminator import PatchDiscriminator

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
    names = "disc_loss disc_factor disc_weight kl_weight perceptual_weight".split()
    settings = experiment.build_settings(tiny.read("radio"))._replace(
        objective=objective, **{name: config[name] for name in names}
    )
    factor = losses.adopt_weight(config["disc_factor"], step, config["disc_start"])

    def terms_of(params, batch):
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
        logits, moved, _ = adversary.discriminate(
            network, disc["params"], disc["batch_stats"], recon, batch.cond
        )
        made = objectives.Reconstruction(recon, recon, posterior)
        terms, means = objectives.loss_terms(
            batch, made, distance, params["logvar"], settings
        )
        terms = terms._replace(g=losses.generator(logits))
        return terms, ((means, moved), recon)

    params = {
        "kernel": jnp.asarray(arrays["last_kernel"]),
        "logvar": jnp.asarray(arrays["logvar"]),
    }
    parts = updates.split(batch, 1)
    grads, terms, (means, _), recons, logs = train_step.pull_back(
        terms_of,
        params,
        parts,
        lambda p: p["kernel"],
        settings,
        kl_weight=settings.kl_weight,
        disc_factor=factor,
        adversarial=True,
    )
    state = adversary.Adversary(
        disc["params"], disc["batch_stats"], losses.LeCamState.start()
    )
    _, _, disc_logs = adversary.gradient(
        network, state, parts, recons, factor, settings
    )
    del disc_logs["disc_accuracy"]  # the published code has none
    return grads, means | logs | disc_logs | {
        "logvar": params["logvar"],
        "nll_loss": terms.balance.rec,
        "disc_factor": factor,
        "g_loss": terms.g,
    }
