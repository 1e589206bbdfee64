"""The released trainer's step in PyTorch, for the benchmark to time beside ours.

diffusers' AutoencoderKL, a PatchGAN and LPIPS with the weights of ours, in the order of
the released trainer: forward, the last layer's gradient of the NLL and of g, backward,
AdamW; a fresh forward, the discriminator's losses, backward, AdamW.
"""

import contextlib
import functools
import itertools
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers.models import upsampling
from torch import nn
from torch.nn import functional

from radiovae_jax import diffusers_weights, torch_structure, torch_weights
from radiovae_jax.models import lpips


class Settings(NamedTuple):
    """What the step is told besides its weights; the names are the config's."""

    kl_weight: float
    disc_factor: float
    disc_weight: float
    perceptual_weight: float
    learning_rate: float
    disc_learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float  # 0: no clipping
    fresh_reconstruction: bool


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


class Peer:
    """Both networks and optimisers; `step` is one iteration of the trainer."""

    def __init__(
        self,
        params: Any,
        disc: Any,
        perceptual: lpips.LpipsWeights | None,
        settings: Settings,
        *,
        adversarial: bool,
        compiled: bool,
        device: str,
        bfloat16: bool,
    ):
        structure = torch_structure.of_flax(params["autoencoder"])
        config = diffusers_weights.config_json(structure, sample_size=64)
        autoencoder = diffusers.AutoencoderKL.from_config(config)
        autoencoder.load_state_dict(
            _tensors(
                diffusers_weights.autoencoder_to_diffusers(
                    {"params": params["autoencoder"]}
                )
            )
        )
        state = torch_weights.discriminator_to_torch(disc)
        ndf, channels = state["main.0.weight"].shape[:2]
        num_layers = sum(name.endswith("running_mean") for name in state)
        patchgan = PatchGan(channels, ndf, num_layers)
        patchgan.load_state_dict(_tensors(state))

        def placed(module: nn.Module) -> nn.Module:
            return module.to(device).to(memory_format=torch.channels_last).train()

        self.last = placed(autoencoder.decoder.conv_out)
        self.trunk, self.disc = placed(Trunk(autoencoder)), placed(patchgan)
        self.lpips = placed(Lpips(perceptual)) if perceptual else None
        self.logvar = torch.tensor(float(params["logvar"]), device=device)
        self.settings, self.adversarial, self.device = settings, adversarial, device
        if device == "cuda":  # what XLA does unasked: tries kernels, and uses TF32
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        s = settings
        adamw = dict(
            betas=(s.beta1, s.beta2), eps=s.eps, weight_decay=s.weight_decay, fused=True
        )
        self.weights = [*self.trunk.parameters(), *self.last.parameters()]
        self.opt = torch.optim.AdamW(self.weights, lr=s.learning_rate, **adamw)
        self.disc_opt = torch.optim.AdamW(
            self.disc.parameters(), lr=s.disc_learning_rate, **adamw
        )
        self.lengths: dict[str, torch.Tensor] = {}  # of gradients, where clipped
        self.autocast = contextlib.nullcontext
        if bfloat16:
            self.autocast = lambda: torch.autocast(device, dtype=torch.bfloat16)
        if compiled:
            # The gradient of an enlargement by interpolate is lost in what torch 2.13
            # compiles for a CPU: all before it gets 0.
            for module in self.trunk.modules():
                if isinstance(module, upsampling.Upsample2D):
                    module.forward = functools.partial(_enlarge, module)
            # The last layer's gradients are taken with the graph kept.
            torch._functorch.config.donated_buffer = False
            self.trunk, self.disc = torch.compile(self.trunk), torch.compile(self.disc)
            if self.lpips is not None:
                self.lpips = torch.compile(self.lpips)

    def reconstruct(self, x, noise):
        with self.autocast():
            h, mean, logvar = self.trunk(x, noise)
        return self.last(h.float()), mean, logvar  # in float32, as ours

    def judge(self, image):
        with self.autocast():
            return self.disc(image).float()

    def step(self, x, noise, fresh_noise) -> dict[str, torch.Tensor]:
        """Returns the logged numbers, as tensors: reading one waits for the device."""
        s = self.settings
        recon, mean, logvar = self.reconstruct(x, noise)
        rec = (x - recon).abs() + (x - recon).square()
        rec_loss = rec
        if self.lpips is not None:
            with self.autocast():
                distance = self.lpips(x, recon)
            rec_loss = rec + s.perceptual_weight * distance.view(-1, 1, 1, 1)
        nll = (rec_loss / self.logvar.exp() + self.logvar).sum() / len(x)
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum() / len(x)
        total = nll + s.kl_weight * kl
        logs = {"rec_loss": rec_loss.mean(), "kl_loss": kl, "nll_loss": nll}
        if self.adversarial:
            g = -self.judge(recon).mean()
            lengths = [
                torch.autograd.grad(term, self.last.weight, retain_graph=True)[0].norm()
                for term in (nll, g)
            ]
            d_weight = (lengths[0] / (lengths[1] + 1e-4)).clamp(0.0, 1e4).detach()
            d_weight = s.disc_weight * d_weight
            total = total + d_weight * s.disc_factor * g
            logs |= {"g_loss": g, "d_weight": d_weight}
        self.update("ae", self.opt, self.weights, total)
        if self.adversarial:
            logs["disc_loss"] = self.discriminate(x, recon, fresh_noise)
        return {name: value.detach() for name, value in logs.items()}

    def waited_step(self, *given) -> None:
        """Takes a step and waits until the device is done."""
        self.step(*given)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self, *given) -> int | None:
        """Takes a step; returns the most GPU memory: its own and what the step adds.

        None on a CPU, where PyTorch does not count.
        """
        if self.device != "cuda":
            return None
        own = [*self.weights, *self.disc.parameters()]
        own += [weight.grad for weight in own if weight.grad is not None]
        own += self.disc.buffers()
        if self.lpips is not None:
            own += [*self.lpips.parameters(), *self.lpips.buffers()]
        for opt in (self.opt, self.disc_opt):
            moments = (kept.values() for kept in opt.state.values())
            own += [m for m in itertools.chain(*moments) if m.is_cuda]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.waited_step(*given)
        added = torch.cuda.max_memory_allocated() - before
        return sum(tensor.nbytes for tensor in (*own, *given)) + added

    def grad_norms(self) -> dict[str, torch.Tensor]:
        """Returns the norms of the last gradients, before clipping, named as ours."""
        if self.settings.clip_norm:
            return dict(self.lengths)
        networks = {"ae": self.weights}
        if self.adversarial:
            networks["disc"] = list(self.disc.parameters())
        unbounded = float("inf")
        return {f"{n}_grad_norm": _clip(w, unbounded) for n, w in networks.items()}

    def discriminate(self, x, recon, fresh_noise):
        if self.settings.fresh_reconstruction:
            recon, *_ = self.reconstruct(x, fresh_noise)
        real, fake = self.judge(x), self.judge(recon.detach())
        hinge = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        loss = 0.5 * self.settings.disc_factor * hinge
        self.update("disc", self.disc_opt, list(self.disc.parameters()), loss)
        return loss

    def update(self, name, opt, weights, loss) -> None:
        opt.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip_norm:
            length = _clip(weights, self.settings.clip_norm)
            self.lengths[f"{name}_grad_norm"] = length
        opt.step()


_clip = torch.nn.utils.clip_grad_norm_  # returns the norm that there was


def _enlarge(module: upsampling.Upsample2D, x, *_, **__):
    """What the module does: every pixel becomes 2x2, then the convolution."""
    b, c, h, w = x.shape
    square = x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2)
    return module.conv(square.reshape(b, c, 2 * h, 2 * w))


def images(array: np.ndarray, device: str) -> torch.Tensor:
    """Returns NHWC as a channels-last tensor on the device."""
    tensor = torch.tensor(np.array(array)).permute(0, 3, 1, 2)
    return tensor.to(device).contiguous(memory_format=torch.channels_last)


def _tensors(state) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.array(value)) for name, value in state.items()}
