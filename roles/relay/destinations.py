"""Which destinations do not take messages at the moment, and when each is to be tried again. Pure: time is given.

A destination that fails is left alone for a while, which doubles with each failure, and then tried with one message
before the others follow. So a million messages for a queue that is full cost one attempt now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

Destination = tuple[str, str]
"""Exchange and routing key."""

FIRST = timedelta(seconds=1)
"""The first pause of a destination."""

FORGET_AFTER = timedelta(hours=1)
"""How long after its pause a destination that nobody has tried again is remembered."""

_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a destination is left alone, and until when."""

    error: str
    until: datetime
    failures: int


class Destinations:
    """The destinations of one broker that failed when they were last tried.

    Params:
        ceiling: the longest pause.
    """

    def __init__(self, *, ceiling: timedelta) -> None:
        self._ceiling = ceiling
        self._troubles: dict[Destination, Trouble] = {}

    def trouble(self, destination: Destination, now: datetime) -> Trouble | None:
        """Why it has to be left alone now, if it has to."""
        trouble = self._troubles.get(destination)
        return trouble if trouble is not None and now < trouble.until else None

    def is_doubtful(self, destination: Destination) -> bool:
        """Whether it failed when it was last tried."""
        return destination in self._troubles

    def failed(self, destination: Destination, error: str, now: datetime) -> Trouble:
        """To be called when it did not take a message, or several at once."""
        before = self._troubles.pop(destination, None)
        failures = 1 if before is None else before.failures + 1
        pause = min(self._ceiling, FIRST * 2 ** min(failures - 1, _DOUBLINGS))
        self._forget(now)
        self._troubles[destination] = Trouble(error, now + pause, failures)
        return self._troubles[destination]

    def worked(self, destination: Destination) -> bool:
        """To be called when it took a message; whether it had failed before."""
        return self._troubles.pop(destination, None) is not None

    def _forget(self, now: datetime) -> None:
        for destination, trouble in list(self._troubles.items()):
            if now <= trouble.until + FORGET_AFTER:
                break  # those that failed longest ago come first
            del self._troubles[destination]
