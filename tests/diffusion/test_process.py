"""Processes and samplers against the published code's outputs and their algebra."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.diffusion import process, sampler

close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)


def nhwc(x):
    return jnp.moveaxis(jnp.asarray(x), -3, -1)


@pytest.fixture(scope="module")
def forward():
    arrays = golden.load("stage2/forward_loss")
    del arrays["config"]
    return {k: nhwc(v) if v.ndim == 4 else jnp.asarray(v) for k, v in arrays.items()}


@pytest.fixture(scope="module")
def reference():
    return golden.load("stage2/sampler")


def test_forward_process_estimate_and_reverse_step_match_the_release(forward):
    f, released = forward, process.decoupled(precondition="none")
    close(released.corrupt(f["x0"], f["noise"], f["t"]), f["x_t"])
    for c, n, name in (
        (f["C_pred"], f["noise_pred"], "x0_from_pred"),
        (-f["x0"], f["noise"], "x0_from_truth"),
    ):
        close(released.estimate((c, n), f["x_t"], f["t"]), f[name])
    out = process.decoupled_step(
        f["C_pred"], f["noise_pred"], f["x_t"], f["t"], f["step_s"], f["step_epsilon"]
    )
    close(out, f["step_out"])


@pytest.mark.parametrize("norm", ["l1_l2", "l2"])
@pytest.mark.parametrize("weights", ["exp", "ncsn", "none"])
def test_losses_and_their_gradients_match_the_release(forward, weights, norm):
    f, tag = forward, f"{weights}_{norm.replace('_', '')}"
    if f"loss_{tag}" not in f:
        tag = f"{weights}_{norm}"

    def loss(c, n):
        made = process.decoupled(weights=weights, norm=norm, precondition="none")
        each, _ = made.loss(lambda *_: (c, n), f["x0"], f["noise"], f["t"], f["t"])
        return each.mean(), each

    (mean, each), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        f["C_pred"], f["noise_pred"]
    )
    np.testing.assert_allclose(each, f[f"loss_per_item_{tag}"], rtol=1e-5)
    np.testing.assert_allclose(mean, f[f"loss_{tag}"], rtol=1e-5)
    close(grads[0], f[f"grad_C_{tag}"])
    close(grads[1], f[f"grad_noise_{tag}"])


def analytic(reference):
    """The network of the reference samples, in NHWC, for its own condition."""
    a, b, c, d, e, f = reference["coefficients"]
    cond = nhwc(reference["cond"])[:, ::4, ::4]

    def predict(x, t, r):
        t = t[:, None, None, None]
        return a * x + b + f * cond, c * x + d + e * t

    return predict


@pytest.mark.parametrize("calls", [1, 3, 10])
@pytest.mark.parametrize("mode", ["denoise", "plain"])
def test_samples_match_the_release(reference, calls, mode):
    arrays = golden.below(reference, f"N{calls}_{mode}_")
    made = process.decoupled(precondition="none", denoise=mode == "denoise")
    times, _ = made.times(calls)
    np.testing.assert_array_equal(times, arrays["times"])
    out = sampler.reverse(
        made,
        analytic(reference),
        nhwc(arrays["x_T"]),
        nhwc(arrays["epsilons"]),
        calls=calls,
    )
    close(out, nhwc(arrays["out"]), atol=3e-5 if mode == "denoise" else 1e-5)


@pytest.mark.parametrize("kind", ["decoded", "softsign", "pixel"])
def test_sample_variants_match_the_release(reference, kind):
    arrays = golden.below(reference, f"{kind}_")
    made = process.decoupled(
        precondition="none", denoise=True, clip=1.0 if kind == "pixel" else 0.0
    )
    x, noises = nhwc(arrays["x_T"]), nhwc(arrays["epsilons"])
    z = sampler.reverse(made, analytic(reference), x, noises, calls=3)
    if kind == "decoded":  # with the stand-in decoder of the reference
        mean = 1.5 * (z / reference["scale_factor"]).mean(-1, keepdims=True)
        z = jnp.clip((mean.repeat(4, 1).repeat(4, 2) + 1) / 2, 0, 1)
    if bound := {"softsign": 0.987654321, "pixel": 1.0}.get(kind):
        z = jnp.clip(z, -bound, bound)
    close(z, nhwc(arrays["out"]), atol=3e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_mean_flow_s_published_loss_and_samples_match_its_code(power):
    f = golden.load("stage2/meanflow")
    c0, c1, c2, c3, c4 = f["coefficients"]

    def predict(x, t, r):
        t, h = t[:, None, None, None], (t - r)[:, None, None, None]
        u = c0 * x + c1 * jnp.sin(3 * t) * x + c2 * h + c3 * jnp.tanh(x) * t * h + c4
        return (u,)

    made = process.mean_flow(form="published", power=power)
    t, r = f["t"].ravel(), f["r"].ravel()
    each, parts = made.loss(predict, f["x"], f["e"], t, r)
    np.testing.assert_allclose(each.mean(), f[f"loss_p{power}"], rtol=1e-5)
    pixels = np.prod(f["x"].shape[1:])
    np.testing.assert_allclose(parts["v_loss"] * pixels, f["v_loss"], rtol=1e-5)
    noises = jnp.zeros((1, *f["e"].shape))
    close(sampler.reverse(made, predict, f["e"], noises, calls=1), f["sample_1step"])
    x = f["e"]
    for start, end, name in ((1.0, 0.4, "sample_2step_mid"), (0.4, 0, "sample_2step")):
        t, r = jnp.full(len(x), start), jnp.full(len(x), end)
        x = made.step(predict(x, t, r), x, t, t - r, noises[0])
        close(x, f[name])


def any_network(heads):
    """A network without meaning: what holds of it holds of every network."""

    def predict(x, t, r):
        t, h = t[:, None, None, None], (t - r)[:, None, None, None]
        outputs = jnp.sin(3 * x + t) + h, jnp.cos(x) - t * x
        return outputs[:heads]

    return predict


@pytest.mark.parametrize("kind", process.KINDS)
def test_one_call_from_noise_is_what_the_algebra_says(kind):
    """So one call of any process is a regression on the condition, up to its noise."""
    made = process.KINDS[kind]()
    noise = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    predict = any_network(made.heads)
    one, zero = jnp.ones(2), jnp.zeros(2)
    x = made.corrupt(0 * noise, noise, one)
    found = sampler.reverse(made, predict, x, noise[None], calls=1)
    outputs = predict(x, one, zero)
    expected = {
        "rectified": lambda: noise - outputs[0],
        "mean_flow": lambda: noise - outputs[0],
        "regression": lambda: outputs[0],
        # 2 (x_T - n) - C: preconditioned, n is x_T itself at t = 1, and C is F1/sqrt(2)
        "decoupled": lambda: -outputs[0] / 2**0.5,
    }[kind]()
    close(found, expected, atol=1e-6)
    if kind == "decoupled":
        plain = process.decoupled(precondition="none")
        found = sampler.reverse(plain, predict, x, noise[None], calls=1)
        close(found, 2 * (noise - outputs[1]) - outputs[0], atol=2e-6)


@pytest.mark.parametrize("kind", process.KINDS)
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_the_true_prediction_leads_back_to_the_latent(kind, calls):
    z, noise = jax.random.normal(jax.random.key(1), (2, 2, 4, 4, 3))
    truth = {
        "decoupled": (-z, noise),
        "rectified": (noise - z,),
        "mean_flow": (noise - z,),
        "regression": (z,),
    }[kind]
    options = {"precondition": "none"} if kind == "decoupled" else {}
    made = process.KINDS[kind](**options)
    for t in (0.3, 1.0):
        x = made.corrupt(z, noise, jnp.full(2, t))
        close(made.estimate(truth, x, jnp.full(2, t)), z)
    if kind == "decoupled" and calls > 1:
        return  # its steps draw noise, so the noise that is left is another
    x = made.corrupt(z, noise, jnp.ones(2))
    noises = jnp.zeros((calls, *z.shape))
    if kind == "regression":
        noises = noises[:1]
    close(sampler.reverse(made, lambda *_: truth, x, noises, calls=calls), z)


def test_mended_preconditioning_is_right_at_both_ends():
    z, noise = jax.random.normal(jax.random.key(2), (2, 2, 4, 4, 3))
    early, late = jnp.full(2, process.EPS), jnp.ones(2)
    x = process.decoupled_corrupt(z, noise, early)
    c, _ = process.preconditioned(0 * z, 0 * z, x, early, form="mended")
    close(c, -z, atol=0.06)  # x is z but for sqrt(EPS) = 0.01 of noise
    wrong, _ = process.preconditioned(0 * z, 0 * z, x, early, form="released")
    assert float(jnp.abs(wrong + z).mean()) > 1
    _, n = process.preconditioned(0 * z, 9 + z, noise, late, form="mended")
    close(n, noise)


def test_improved_mean_flow_is_the_flow_s_loss_where_r_is_t():
    z, noise = jax.random.normal(jax.random.key(3), (2, 6, 4, 4, 3))
    made = process.mean_flow(power=0.0)
    t, r = made.draw_times(jax.random.key(4), 6)
    assert ((0 <= r) & (r <= t) & (t <= 1)).all()
    each, parts = made.loss(any_network(1), z, noise, t, t)
    np.testing.assert_allclose(each, parts["v_loss"] * 48, rtol=1e-5)
    flow, _ = process.rectified().loss(any_network(1), z, noise, t, t)
    np.testing.assert_allclose(parts["v_loss"], flow, rtol=1e-5)


def test_a_share_of_the_times_is_apart():
    t, r = process.mean_flow(share=0.25).draw_times(jax.random.key(5), 4000)
    assert 0.22 < float((r < t).mean()) < 0.28


def test_samples_start_from_a_latent_in_between():
    z = jnp.ones((2, 4, 4, 3))
    noises = jax.random.normal(jax.random.key(6), (4, *z.shape))
    made = process.rectified()
    seen = []

    def truth(x, t, r):  # the velocity that leads to z
        seen.append(x)
        return ((x - z) / t[:, None, None, None],)

    found = sampler.draw(made, truth, noises, calls=3, start=(z, 0.5))
    close(found, z)
    with jax.disable_jit():
        sampler.draw(made, truth, noises[:2], calls=1, start=(z, 0.5))
    close(seen[-1], (z + noises[0]) / 2)
