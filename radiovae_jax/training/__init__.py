"""The engine of any stage: loop, checkpoints, run folder, validation, schedules."""
