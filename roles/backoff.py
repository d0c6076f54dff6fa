"""How long to wait before the next try: exponential with full jitter."""

from __future__ import annotations

from datetime import timedelta

from roles.clock import Clock
from schema.settings import Supervisor

CEILING = timedelta(seconds=5)
"""The supervisor waits up to its `backoff_max`; here a try is one connection, and messages are waiting."""

_DOUBLINGS = 16


class Backoff:
    """Seconds to wait, growing with each call of `next` until `reset`."""

    def __init__(self, clock: Clock, policy: Supervisor) -> None:
        self._clock = clock
        self._initial = policy.backoff_initial.total_seconds()
        self._ceiling = min(policy.backoff_max, CEILING).total_seconds()
        self._tries = 0

    def next(self) -> float:
        ceiling = min(self._ceiling, self._initial * 2.0**self._tries)
        self._tries = min(self._tries + 1, _DOUBLINGS)
        return self._clock.random() * ceiling

    def reset(self) -> None:
        self._tries = 0
