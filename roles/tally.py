"""What a role has in hand and has done: one set of counters for status, console and the receipt of a drain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts of a role's units of work (requests, messages, ticks) since the process started.

    It outlives the role's restarts. Whatever was taken is, in the end, finished, failed or given back, so that
    `taken == in_flight + finished + failed + given_back` always holds.
    """

    taken: int = 0
    finished: int = 0
    failed: int = 0
    given_back: int = 0

    @property
    def in_flight(self) -> int:
        """What was taken and has not come to an end yet."""
        return self.taken - self.finished - self.failed - self.given_back

    def copy(self) -> Tally:
        return Tally(self.taken, self.finished, self.failed, self.given_back)
