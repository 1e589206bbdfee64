"""What is said of a write that failed, whichever of Orbax's writers says it."""

import errno
import os

from radiovae_jax import orbax_errors

FULL = os.strerror(errno.ENOSPC)


def test_the_reason_is_found_at_the_end_of_tensorstore_s_line():
    line = f"DATA_LOSS: Error writing x: {FULL} [os_error_code='28' source_locations='"
    assert orbax_errors.cause(ValueError(f"{line}...\nmore")) == FULL


def test_the_reason_of_an_oserror_is_not_its_file():
    error = OSError(errno.ENOSPC, FULL, "/run/checkpoints/60/data/metadata")
    assert orbax_errors.cause(error) == FULL
    try:
        raise RuntimeError("a thread of Orbax failed: see above") from error
    except RuntimeError as wrapped:
        assert orbax_errors.cause(wrapped) == FULL
