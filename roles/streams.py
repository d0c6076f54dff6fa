"""Standard input, output and error of a process that was started without one of them."""

from __future__ import annotations

import os
import sys


def open_missing_streams() -> None:
    """Opens those that are closed, on `/dev/null`; to be called before anything else is opened.

    A socket would get the number of one otherwise, and libuv aborts when it is to close that.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
