"""The engine of any stage: run, loop, validation, checkpoints, run folder, schedules.

What a stage gives it is a `task.Task`.
"""


def run(make, config, workdir) -> dict[str, float]:
    """Trains, or goes on training; see `trainer.run`."""
    from radiovae_jax.training import trainer  # not at the top: Orbax takes a second

    return trainer.run(make, config, workdir)
