"""Ctrl-C while a program imports: one word and status 130, no traceback.

Imported before all else by what is run, so it needs nothing that takes time.
"""

import os
import signal


def ends_program() -> None:
    """Lets Ctrl-C end the program at once, until `cli.one_message`.

    A program that ignores Ctrl-C (nohup, &) goes on ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def end(number: int, frame) -> None:
    # No exception: what is half imported may catch it, or make another of it.
    os.write(2, b"\nstopped\n")
    os._exit(128 + number)
