"""The kill switch of a consumer: when most messages fail, it is not the messages that are wrong.

After a bad deploy every message would fail, climb the ladder and end in the parking lot, all of the queue within
minutes. So a consumer whose messages mostly fail pauses, tries one message after a while, and goes on or pauses
again.

```
            most of the messages in the window failed
   closed ────────────────────────────────────────────▶ open
     ▲ ▲                                                │ ▲
     │ └── its message was handled ──── probing ◀───────┘ │   after the pause
     │                                     └──────────────┘   its message failed
```

What counts: a handler that fails counts, whatever with, and so does one that times out. The world does not
(it uses up no attempt), nor does a message that turned out to be done already. A message that is refused
(`Reject`, or a body that the model does not accept) counts only while no other message in the window was handled
well: a producer of garbage among good messages must not stop the good ones, whereas a deploy whose model accepts
nothing must be stopped before it has parked everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum, auto

from schema.duration import parse_duration

_BUCKETS = 10
"""Parts of the window that are forgotten as a whole: the memory does not grow with the rate of messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When a consumer pauses: `Breaker(window="1m", failure_rate=0.8)`.

    Params:
        window: how far back messages count.
        failure_rate: the share of them that must have failed, above 0 and up to 1.
        min_messages: how many there must be for that share to say anything.
        pause: how long nothing is taken, before one message is tried.
    """

    window: str | timedelta = "30s"
    failure_rate: float = 0.5
    min_messages: int = 20
    pause: str | timedelta = "30s"

    def findings(self) -> Iterator[str]:
        """What is wrong with the declaration, a line for each."""
        for name, value in (("window", self.window), ("pause", self.pause)):
            try:
                if parse_duration(value) <= timedelta(0):
                    yield f"breaker {name} {value!r} is not longer than zero"
            except ValueError as error:
                yield f"breaker {name} {error}"
        rate: object = self.failure_rate
        if isinstance(rate, bool) or not (isinstance(rate, int | float) and 0 < rate <= 1):
            yield f"breaker failure_rate {rate!r} is not a number above 0 and up to 1"
        least: object = self.min_messages
        if isinstance(least, bool) or not (isinstance(least, int) and least >= 1):
            yield f"breaker min_messages {least!r} is not a number from 1"


class State(StrEnum):
    CLOSED = "closed"
    """Messages are taken."""
    OPEN = "open"
    """None is."""
    PROBING = "probing"
    """One is."""


class Outcome(Enum):
    """What an attempt says about the consumer."""

    GOOD = auto()
    FAILED = auto()
    REFUSED = auto()


@dataclass(slots=True)
class _Bucket:
    number: int
    good: int = 0
    failed: int = 0
    refused: int = 0


class Switch:
    """A breaker at work. It is told the time, in seconds that never go backwards.

    Raises:
        ValueError: the declaration has findings.
    """

    def __init__(self, breaker: Breaker) -> None:
        self.state = State.CLOSED
        self._width = parse_duration(breaker.window).total_seconds() / _BUCKETS
        self._pause = parse_duration(breaker.pause).total_seconds()
        self._rate = breaker.failure_rate
        self._least = breaker.min_messages
        self._buckets: deque[_Bucket] = deque()
        self._opened_at = 0.0

    def record(self, outcome: Outcome, now: float, *, messages: int = 1) -> bool:
        """Takes note of what became of messages; True if that made the state another one.

        While open, what was at work before ends without being counted.
        """
        match self.state:
            case State.OPEN:
                return False
            case State.PROBING:
                if outcome is Outcome.GOOD:
                    self.state = State.CLOSED
                    self._buckets.clear()
                else:
                    self._open(now)
                return True
        bucket = self._bucket(now)
        if outcome is Outcome.GOOD:
            bucket.good += messages
            return False
        if outcome is Outcome.FAILED:
            bucket.failed += messages
        else:
            bucket.refused += messages
        bad, counted = self.counts(now)
        if counted < self._least or bad < self._rate * counted:
            return False
        self._open(now)
        return True

    def counts(self, now: float) -> tuple[int, int]:
        """How many messages in the window failed, and of how many."""
        self._forget(now)
        good = sum(bucket.good for bucket in self._buckets)
        bad = sum(bucket.failed if good else bucket.failed + bucket.refused for bucket in self._buckets)
        return bad, good + bad

    def left(self, now: float) -> float:
        """Seconds until one message is to be tried; zero or less if it is time."""
        return self._opened_at + self._pause - now if self.state is State.OPEN else 0.0

    def probe(self) -> None:
        """The pause is over: the next outcome decides."""
        self.state = State.PROBING

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self._opened_at = now

    def _bucket(self, now: float) -> _Bucket:
        number = int(now / self._width)
        if not self._buckets or self._buckets[-1].number != number:
            self._forget(now)
            self._buckets.append(_Bucket(number))
        return self._buckets[-1]

    def _forget(self, now: float) -> None:
        first = int(now / self._width) - _BUCKETS
        while self._buckets and self._buckets[0].number <= first:
            self._buckets.popleft()
