"""Many lives of one application: what it imports is imported once, and each life is a fork of that.

A life is a process of its own with its own id, and dies alone. That saves a second of imports for each.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable


def live_on_request(main: Callable[[str], None]) -> None:
    """Begins a life for each line of standard input, and writes two lines for it: its id, and its exit code.

    An exit code below zero is the number of the signal that it died by. What a life writes goes to standard error.

    Params:
        main: called in each life, with its line.
    """
    gc.freeze()
    for line in sys.stdin:
        life = os.fork()
        if life == 0:
            os.dup2(2, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            main(line.strip())
            raise SystemExit(0)
        print(life, flush=True)  # noqa: T201
        _, status = os.waitpid(life, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def import_roles() -> None:
    """Imports what a life would import when it needs it. What is declared must be in its place by then."""
    for name in ("app", "roles.consume.role", "roles.relay.role", "roles.schedule.role"):
        importlib.import_module(name)


def run() -> None:
    """The command line, as `app.py` has it."""
    importlib.import_module("app").cli()
