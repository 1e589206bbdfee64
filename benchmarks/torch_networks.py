"""The networks of the released trainer in PyTorch, with the weights of ours."""

import functools
import itertools
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models import upsampling
from torch import nn

from radiovae_jax.interop import diffusers_weights, torch_weights
from radiovae_jax.nn import lpips


def autoencoder_of(params: Any) -> diffusers.AutoencoderKL:
    """Returns diffusers' autoencoder with our parameters."""
    structure = torch_weights.structure_of_flax(params)
    config = diffusers_weights.config_json(structure, sample_size=64)
    autoencoder = diffusers.AutoencoderKL.from_config(config)
    state = diffusers_weights.autoencoder_to_diffusers({"params": params})
    autoencoder.load_state_dict(_tensors(state))
    return autoencoder


def patchgan_of(variables: Any) -> "PatchGan":
    """Returns the discriminator with our parameters and running statistics."""
    state = torch_weights.discriminator_to_torch(variables)
    ndf, channels = state["main.0.weight"].shape[:2]
    num_layers = sum(name.endswith("running_mean") for name in state)
    patchgan = PatchGan(channels, ndf, num_layers)
    patchgan.load_state_dict(_tensors(state))
    return patchgan


class Trunk(nn.Module):
    """All of the autoencoder but its last convolution.

    Compiled as one piece: with the last layer outside, `autograd.grad` with respect to
    it does not run the whole compiled backward pass.
    """

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        autoencoder.decoder.conv_out = nn.Identity()
        self.autoencoder = autoencoder

    def forward(self, x, noise):
        vae = self.autoencoder
        mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)
        z = mean + torch.exp(0.5 * logvar) * noise
        return vae.decoder(vae.post_quant_conv(z)), mean, logvar


class PatchGan(nn.Module):
    """taming-transformers' NLayerDiscriminator with BatchNorm."""

    def __init__(self, channels: int, ndf: int, num_layers: int):
        super().__init__()
        layers = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        widths = [ndf * min(2**n, 8) for n in range(num_layers + 1)]
        for n, (before, after) in enumerate(itertools.pairwise(widths), 1):
            stride = 2 if n < num_layers else 1
            layers += [
                nn.Conv2d(before, after, 4, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, x):
        return self.main(x)


class Lpips(nn.Module):
    """VGG16's five activations compared, with the weights given."""

    def __init__(self, weights: lpips.LpipsWeights):
        super().__init__()
        self.blocks = nn.ModuleList()
        for i, (_, count) in enumerate(lpips.BLOCKS, 1):
            block = [nn.MaxPool2d(2)] if i > 1 else []
            for n in range(1, count + 1):
                arrays = weights.vgg[f"conv{i}_{n}"]
                kernel = torch.tensor(
                    np.asarray(arrays["kernel"]).transpose(3, 2, 0, 1)
                )
                conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
                bias = torch.tensor(np.array(arrays["bias"]).reshape(-1))
                conv.weight.data, conv.bias.data = kernel, bias
                block += [conv, nn.ReLU()]
            self.blocks.append(nn.Sequential(*block))
        for i, lin in enumerate(weights.lin):
            self.register_buffer(f"lin{i}", torch.tensor(np.array(lin)))
        for name in ("SHIFT", "SCALE"):
            values = torch.tensor(getattr(lpips, name)).view(1, 3, 1, 1)
            self.register_buffer(name.lower(), values)
        self.requires_grad_(False)

    def features(self, x):
        h, found = (x.expand(-1, 3, -1, -1) - self.shift) / self.scale, []
        for block in self.blocks:
            h = block(h)
            unit = h.float() / (h.float().square().sum(1, keepdim=True) + 1e-20).sqrt()
            found.append(unit)
        return found

    def forward(self, target, recon):
        with torch.no_grad():
            wanted = self.features(target)
        layers = zip(wanted, self.features(recon), strict=True)
        return sum(
            ((a - b).square() * getattr(self, f"lin{i}").view(1, -1, 1, 1))
            .sum(1)
            .mean((1, 2))
            for i, (a, b) in enumerate(layers)
        )


def keep_gradients(module: nn.Module) -> None:
    """Replaces what torch 2.13 loses when it compiles for a CPU.

    The gradient of an enlargement by interpolate: all before it would get 0.
    """
    for inner in module.modules():
        if isinstance(inner, upsampling.Upsample2D):
            inner.forward = functools.partial(_enlarge, inner)


def _enlarge(module: upsampling.Upsample2D, x, *_, **__):
    """What the module does: every pixel becomes 2x2, then the convolution.

    The channels stay last in memory, as interpolate leaves them.
    """
    b, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None, :]
    enlarged = pixels.expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c)
    return module.conv(enlarged.permute(0, 3, 1, 2))


def _tensors(state) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.array(value)) for name, value in state.items()}
