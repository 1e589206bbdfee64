"""The published networks in PyTorch, with the published names, for comparison.

Written from the description of RadioDiff's `AutoencoderKL` (encoder_decoder.py),
taming-transformers' `NLayerDiscriminator` and `ActNorm`; test_torch_weights.py holds
the names to those of the published weights in tests/golden.
"""

import functools

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


def conv3(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


class Resnet(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1, self.conv1 = norm(before), conv3(before, after)
        self.norm2, self.conv2 = norm(after), conv3(after, after)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        for name in ("q", "k", "v", "proj_out"):
            self.add_module(name, nn.Conv2d(width, width, 1))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bci,bcj->bij", q, k) / x.shape[1] ** 0.5
        attended = torch.einsum("bij,bcj->bci", weights.softmax(dim=-1), v)
        return x + self.proj_out(attended.reshape(x.shape))


class Resample(nn.Module):
    def __init__(self, width: int, stride: int):
        super().__init__()
        self.down = stride == 2
        self.conv = nn.Conv2d(width, width, 3, stride, padding=0 if self.down else 1)

    def forward(self, x):
        if self.down:
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    def __init__(self, before: int, width: int, blocks: int, attends: bool):
        super().__init__()
        widths = [before] + [width] * (blocks - 1)
        self.block = nn.ModuleList(Resnet(b, width) for b in widths)
        count = blocks if attends else 0
        self.attn = nn.ModuleList(Attention(width) for _ in range(count))

    def forward(self, x):
        for j, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[j](x)
        return x


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block_1, self.attn_1 = Resnet(width, width), Attention(width)
        self.block_2 = Resnet(width, width)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, channels, ch, widths, blocks, attends, z):
        super().__init__()
        self.conv_in = conv3(channels, ch)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[i - 1] if i else ch
            level = Level(before, width, blocks, attends[i])
            if i < len(widths) - 1:
                level.downsample = Resample(width, 2)
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = norm(widths[-1]), conv3(widths[-1], 2 * z)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        return self.conv_out(functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, channels, widths, blocks, attends, z):
        super().__init__()
        self.conv_in = conv3(z, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            level = Level(before, width, blocks + 1, attends[i])
            if i > 0:
                level.upsample = Resample(width, 1)
            self.up.append(level)
        self.norm_out, self.conv_out = norm(widths[0]), conv3(widths[0], channels)

    def forward(self, z):
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(functional.silu(self.norm_out(x)))


class AutoencoderKL(nn.Module):
    """Takes the fields of ours; `attends` says where levels have attention."""

    def __init__(
        self,
        *,
        attends,
        in_channels=1,
        out_ch=1,
        ch=32,
        ch_mult=(1, 2),
        num_res_blocks=1,
        z_channels=3,
        embed_dim=3,
    ):
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        blocks, z, e = num_res_blocks, z_channels, embed_dim
        self.encoder = Encoder(in_channels, ch, widths, blocks, attends, z)
        self.decoder = Decoder(out_ch, widths, blocks, attends, z)
        self.quant_conv = nn.Conv2d(2 * z, 2 * e, 1)
        self.post_quant_conv = nn.Conv2d(e, z, 1)

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


class ActNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.loc = nn.Parameter(0.1 * torch.randn(1, width, 1, 1))
        self.scale = nn.Parameter(1 + 0.1 * torch.randn(1, width, 1, 1))
        self.register_buffer("initialized", torch.tensor(1, dtype=torch.uint8))

    def forward(self, x):
        return self.scale * (x + self.loc)


class PatchGAN(nn.Module):
    def __init__(self, channels=1, ndf=64, layers=3, actnorm=False):
        super().__init__()
        sequence = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = ndf
        for n in range(1, layers + 1):
            before, width = width, ndf * min(2**n, 8)
            stride = 2 if n < layers else 1
            sequence += [
                nn.Conv2d(before, width, 4, stride, 1, bias=actnorm),
                ActNorm(width) if actnorm else nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*sequence, nn.Conv2d(width, 1, 4, 1, 1))

    def forward(self, x):
        return self.main(x)


class Loss(nn.Module):
    """What the published losses hold besides LPIPS."""

    def __init__(self, **fields):
        super().__init__()
        self.logvar = nn.Parameter(torch.tensor(0.25))
        self.discriminator = PatchGAN(**fields)


def arrays(module: nn.Module) -> dict:
    """Returns the state dict as NumPy arrays."""
    state = module.state_dict()
    return {name: value.numpy().copy() for name, value in state.items()}


def tensors(state: dict) -> dict:
    return {name: torch.tensor(value) for name, value in state.items()}


def nchw(x) -> torch.Tensor:
    return torch.tensor(x).permute(0, 3, 1, 2).contiguous()


def nhwc(x: torch.Tensor):
    return x.detach().permute(0, 2, 3, 1).numpy()


_COMPILED: dict = {}


def compiled(model):
    """Returns our `encode` and `decode`, compiled once for all tests of a structure."""
    return _COMPILED.setdefault(
        repr(model),
        tuple(
            jax.jit(functools.partial(model.apply, method=method))
            for method in ("encode", "decode")
        ),
    )


def assert_same_outputs(model, params, encode, decode, size=16) -> None:
    """Compares moments and reconstruction of ours and theirs on random numbers.

    Args:
      encode: of theirs, image to moments [b, 2e, h, w]; decode: latent to image.
    """
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, size, size, model.in_channels)).astype(np.float32)
    small = size // model.downsampling
    z = rng.normal(size=(2, small, small, model.embed_dim)).astype(np.float32)
    our_encode, our_decode = compiled(model)
    posterior = our_encode(params, x)
    with torch.no_grad():
        mean, logvar = encode(nchw(x)).chunk(2, dim=1)
        recon = decode(nchw(z))
    for ours, theirs in (
        (posterior.mean, mean),
        (posterior.logvar, logvar),
        (our_decode(params, z), recon),
    ):
        theirs = nhwc(theirs)
        # At full size one pixel near 0 is 1.1e-5 off: sums in another order.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


def random_params(model) -> dict:
    """Returns parameters of ours, drawn without the network's own initialisation."""
    side = model.downsampling
    x = jax.ShapeDtypeStruct((1, side, side, model.in_channels), np.float32)
    key = jax.random.key(0)
    shapes = jax.eval_shape(model.init, key, x, key)["params"]
    rng = np.random.default_rng(3)

    def drawn(leaf):
        return rng.normal(0, 0.05, leaf.shape).astype(np.float32)

    return {"params": jax.tree.map(drawn, shapes)}
