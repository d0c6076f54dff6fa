"""The errors that decide what a failure means.

```
Exception
├── DependencyUnavailable    the world is away: try again, for ever
└── ConfigurationError       it can never work: exit 2, and say what to change
```
Everything else is a bug: its traceback is logged once, and the role that raised it is restarted.
"""

from __future__ import annotations

from collections.abc import Callable


class DependencyUnavailable(Exception):
    """A database, a broker or a service that we need is away; nothing of ours is broken.

    The supervisor restarts the role with backoff for as long as it takes, counts it against no budget, and
    `/health/ready` says which dependency is missing. The message names the dependency and what it said.
    """


class ConfigurationError(Exception):
    """What was configured or declared can never work; the process ends with exit code 2.

    The message says what was wrong, where, and what to do about it.
    """


def text_of(error: BaseException, say: Callable[[object], str] = str) -> str:
    """What an error says of itself. Its author's `__str__` may fail, and whoever tells of an error must not."""
    try:
        return say(error)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is not what is to be told of
        return f"(its text cannot be had: {type(failure).__name__})"
