"""What happens, as data. Everything goes to one hook, `Emit`; logs and the console listen there.

| event | measures | metadata |
|---|---|---|
| RoleStarting  | attempt | role |
| RoleStarted   | took (seconds) | role |
| RoleWaiting   | | role, needs |
| RoleFailed    | restart_in (seconds, None: never again) | role, failure, error |
| RoleStopped   | took (seconds) | role, cut_off |
| DrainStarted  | timeout (seconds) | reason |
| DrainFinished | took (seconds) | receipt |
| LoopBlocked   | seconds | stack |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """The three kinds of failure (see `schema.errors`)."""

    UNAVAILABLE = "unavailable"
    CONFIGURATION = "configuration"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class RoleWaiting(Event):
    role: str
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleStarting(Event):
    role: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RoleStarted(Event):
    role: str
    took: float


@dataclass(frozen=True, slots=True)
class RoleFailed(Event):
    role: str
    failure: Failure
    error: BaseException
    restart_in: float | None


@dataclass(frozen=True, slots=True)
class RoleStopped(Event):
    role: str
    took: float
    cut_off: bool


@dataclass(frozen=True, slots=True)
class DrainStarted(Event):
    reason: str
    timeout: float


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """What became of a role's work during the drain: `in_flight == finished + failed + given_back + cut_off`.

    `in_flight` counts what the role held when the drain began and what it still took after that (a request
    that was already on its way).
    """

    role: str
    in_flight: int
    finished: int
    failed: int
    given_back: int
    cut_off: int


@dataclass(frozen=True, slots=True)
class DrainFinished(Event):
    took: float
    receipt: tuple[ReceiptLine, ...]


@dataclass(frozen=True, slots=True)
class LoopBlocked(Event):
    seconds: float
    stack: str


Emit = Callable[[Event], None]
