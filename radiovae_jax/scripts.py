"""The console scripts: radiovae-train is `python -m radiovae_jax.main`, and so on."""

import functools
import runpy

_run = functools.partial(runpy.run_module, run_name="__main__", alter_sys=True)
train = functools.partial(_run, "radiovae_jax.main")
evaluate = functools.partial(_run, "radiovae_jax.evaluate")
apply = functools.partial(_run, "radiovae_jax.apply")
report = functools.partial(_run, "radiovae_jax.report")
