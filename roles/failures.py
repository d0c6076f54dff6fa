"""How a role can fail, and which of the three kinds of `schema.errors` a failure is.

```
SupervisionError
├── UnexpectedReturn         a role returned although nobody had asked it to stop
├── StartTimeout             it had not started in time
├── RestartBudgetExhausted   it failed too often, and a budget was set
└── DrainTimeout             the drain's deadline came first
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from roles.events import Failure
from schema.errors import ConfigurationError, DependencyUnavailable, text_of


class SupervisionError(Exception):
    """What the supervisor itself has to say; the message is meant for people."""


class UnexpectedReturn(SupervisionError):
    """A role returned although nobody had asked it to stop."""


class StartTimeout(SupervisionError):
    """A role had not called `started()` in time."""


class RestartBudgetExhausted(SupervisionError):
    """A role failed more often than `supervisor.max_restarts` in `supervisor.restart_window`."""


class DrainTimeout(SupervisionError):
    """Roles had to be cancelled because the drain's deadline was over."""


class Exited(Exception):
    """`sys.exit` was called, as code that was a script once does."""


class Broken(Exception):
    """What is no `Exception` was raised, such as the panic of a library that is written in Rust."""


@contextmanager
def contained() -> Iterator[None]:
    """Turns what would end this process, and each next one that tries the same, into a failure of this block alone.

    Raises:
        Exited, Broken: what was raised is their cause.
    """
    try:
        yield
    except (Exception, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise Exited(f"sys.exit({error.code!r}) was called") from error
    except BaseException as error:
        raise Broken(describe(error)) from error


def classify(error: BaseException) -> Failure:
    """Which of the three kinds an error is; a group is a bug unless all in it agree that it is not."""
    if isinstance(error, BaseExceptionGroup):
        kinds = {classify(inner) for inner in error.exceptions}
        if Failure.CONFIGURATION in kinds:
            return Failure.CONFIGURATION
        return kinds.pop() if len(kinds) == 1 else Failure.BUG
    if isinstance(error, ConfigurationError):
        return Failure.CONFIGURATION
    return Failure.UNAVAILABLE if isinstance(error, DependencyUnavailable) else Failure.BUG


def describe(error: BaseException) -> str:
    """The error in one text: what was meant for people of ours, with its type where it is a bug."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(describe(inner) for inner in error.exceptions))
    if isinstance(error, ConfigurationError | DependencyUnavailable | SupervisionError):
        return text_of(error)
    return f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")
