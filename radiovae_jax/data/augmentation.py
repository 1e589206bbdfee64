"""Crops, flips and quarter turns, alike for all images of a record."""

from collections.abc import Callable

import numpy as np

from radiovae_jax.data import splits
from radiovae_jax.data.sources import Record

AUGMENTATIONS = ("none", "flip", "dihedral")


def transform(augment: str, *, crop: int, shape: tuple[int, int, int]) -> Callable:
    """Returns a function of (record, generator) that crops and turns the images."""
    splits.check_choice("augment", augment, AUGMENTATIONS)
    height, width, _ = shape
    if not 0 <= crop <= min(height, width):
        raise ValueError(
            f"crop {crop} does not fit maps of {height}x{width}; 0 takes the whole map"
        )
    if augment == "dihedral" and not crop and height != width:
        raise ValueError(
            f"quarter turns need square maps and these are {height}x{width}; set "
            "augment='flip', or a square crop"
        )

    def transformed(record: Record, generator: np.random.Generator) -> Record:
        # All numbers are drawn whether used or not: the crops of a seed then stay the
        # same when only the turns are switched off.
        row, column = generator.random(2)
        flip, turns = generator.integers(2), generator.integers(4)

        def of_image(image: np.ndarray) -> np.ndarray:
            if crop:
                top = int(row * (image.shape[0] - crop + 1))
                left = int(column * (image.shape[1] - crop + 1))
                image = image[top : top + crop, left : left + crop]
            if augment != "none" and flip:
                image = image[:, ::-1]
            return np.rot90(image, turns) if augment == "dihedral" else image

        return {
            key: of_image(value) if np.ndim(value) == 3 else value
            for key, value in record.items()
        }

    return transformed
