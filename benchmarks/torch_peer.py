"""The released trainer's step in PyTorch, for the benchmark to time beside ours.

diffusers' AutoencoderKL, a PatchGAN and LPIPS with the weights of ours, in the order of
the released trainer: forward, the last layer's gradient of the NLL and of g, backward,
AdamW; a fresh forward, the discriminator's losses, backward, AdamW.
"""

import contextlib
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch_networks  # beside this file
from torch import nn
from torch.nn import functional

from radiovae_jax.nn import lpips


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


class Peer:
    """Both networks and optimisers; `step` is one iteration of the trainer.

    Args:
      mode: torch.compile's; empty runs it eagerly.
    """

    def __init__(
        self,
        params: Any,
        disc: Any,
        perceptual: lpips.LpipsWeights | None,
        settings: Settings,
        *,
        adversarial: bool,
        mode: str,
        device: str,
        bfloat16: bool,
    ):
        autoencoder = torch_networks.autoencoder_of(params["autoencoder"])

        def placed(module: nn.Module) -> nn.Module:
            return module.to(device).to(memory_format=torch.channels_last).train()

        self.last = placed(autoencoder.decoder.conv_out)
        self.trunk = placed(torch_networks.Trunk(autoencoder))
        self.disc = placed(torch_networks.patchgan_of(disc))
        self.lpips = placed(torch_networks.Lpips(perceptual)) if perceptual else None
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
        if mode:
            self.compile(mode)

    def compile(self, mode: str) -> None:
        if self.device == "cpu":
            torch_networks.keep_gradients(self.trunk)
        # The last layer's gradients are taken with the graph kept.
        torch._functorch.config.donated_buffer = False
        made = functools.partial(torch.compile, mode=mode)
        self.trunk, self.disc = made(self.trunk), made(self.disc)
        if self.lpips is not None:
            self.lpips = made(self.lpips)

    def reconstruct(self, x, noise):
        with self.autocast():
            h, mean, logvar = self.trunk(x, noise)
        return self.last(h.float()), mean, logvar  # in float32, as ours

    def logits(self, image):
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
        self.recon = recon.detach()
        if self.adversarial:
            g = -self.logits(recon).mean()
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
            logs["disc_loss"] = self.discriminate(x, fresh_noise)
        return {name: value.detach() for name, value in logs.items()}

    def wait(self) -> None:
        """Waits until the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def waited_step(self, *given) -> None:
        self.step(*given)
        self.wait()

    def first_step(self, *given) -> dict[str, torch.Tensor]:
        """Takes a step; returns what ours logs of one, by the same names."""
        networks = self.networks()
        before = {
            name: [weight.detach().clone() for weight in weights]
            for name, weights in networks.items()
        }
        logs = self.step(*given) | self.grad_norms()
        logs |= {"recon_min": self.recon.min(), "recon_max": self.recon.max()}
        for name, weights in networks.items():
            moved = zip(weights, before[name], strict=True)
            squares = [(new.detach() - old).square().sum() for new, old in moved]
            logs[f"{name}_update_norm"] = torch.stack(squares).sum().sqrt()
        return logs

    def networks(self) -> dict[str, list[torch.Tensor]]:
        """Returns the weights that a step changes, by network."""
        found = {"ae": self.weights}
        if self.adversarial:
            found["disc"] = list(self.disc.parameters())
        return found

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
        unbounded = float("inf")
        networks = self.networks().items()
        return {f"{n}_grad_norm": _clip(w, unbounded) for n, w in networks}

    def discriminate(self, x, fresh_noise):
        recon, *_ = self.reconstruct(x, fresh_noise)
        real, fake = self.logits(x), self.logits(recon.detach())
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


def images(array: np.ndarray, device: str) -> torch.Tensor:
    """Returns NHWC as a channels-last tensor on the device."""
    tensor = torch.tensor(np.array(array)).permute(0, 3, 1, 2)
    return tensor.to(device).contiguous(memory_format=torch.channels_last)
