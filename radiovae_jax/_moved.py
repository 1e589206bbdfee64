"""Import paths of version 0.1 that a release goes on knowing, as the same modules."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

MOVED = {
    "checkpoint": "training.checkpoint",
    "diffusers_weights": "interop.diffusers_weights",
    "models": "nn",
    "models.autoencoder": "vae.autoencoder",
    "models.convolution": "nn.convolution",
    "models.discriminator": "vae.discriminator",
    "models.layers": "nn.layers",
    "models.lpips": "nn.lpips",
    "models.posterior": "nn.posterior",
    "objectives": "vae.objectives",
    "run_folder": "training.run_folder",
    "torch_weights": "interop.torch_weights",
    "train_step": "vae.train_step",
}
STAYS = ("torch_weights", "diffusers_weights")  # public under these names


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an old name's module under its new one."""

    def find_spec(self, fullname, path=None, target=None):
        name = fullname.removeprefix("radiovae_jax.")
        if name == fullname or name not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, self, is_package=name == "models"
        )

    def create_module(self, spec):
        old = spec.name.removeprefix("radiovae_jax.")
        new = f"radiovae_jax.{MOVED[old]}"
        if old not in STAYS:
            warnings.warn(
                f"{spec.name} is {new} now; the old name goes with the next release",
                FutureWarning,
                stacklevel=2,
            )
        if old == "models":  # a folder of its own, for the modules in it
            return types.ModuleType(spec.name)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        state = module.__spec__.loader_state
        if state is not None:  # the module goes on being what it is
            module.__spec__ = state


def install() -> None:
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
