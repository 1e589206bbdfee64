"""Puts the configs into a wheel, and the commit, which `provenance` reads there."""

import pathlib
import subprocess
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # the checkout is asked itself
            return
        build_data["force_include"][f"{self.root}/configs"] = "radiovae_jax/configs"
        words = [
            "git",
            "--git-dir=.git",
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
        ]
        try:
            done = subprocess.run(words, cwd=self.root, capture_output=True, text=True)
        except OSError:
            return
        if done.returncode == 0:
            self.folder = tempfile.TemporaryDirectory()
            path = pathlib.Path(self.folder.name) / "commit.txt"
            path.write_text(done.stdout)
            build_data["force_include"][str(path)] = "radiovae_jax/commit.txt"
