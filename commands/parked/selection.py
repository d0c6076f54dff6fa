"""Which parked messages a command line means: by their ids, or by what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from commands.command import failure
from db import parked_messages
from db.parked_messages import Filter, Found, Status
from db.query import Connection
from schema.duration import parse_duration


class StatusChoice(StrEnum):
    """A status, or all of them."""

    OPEN = "open"
    REPLAYED = "replayed"
    DROPPED = "dropped"
    ANY = "any"

    @property
    def status(self) -> Status | None:
        return None if self is StatusChoice.ANY else Status(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a command line says. Durations are ages: `older="2h"` is what was parked more than two hours ago.

    Params:
        everything: has to be said if nothing else narrows it down.
        limit: the oldest so many.
    """

    ids: Sequence[int] = ()
    queue: str | None = None
    error: str | None = None
    older: str | None = None
    newer: str | None = None
    status: Status | None = Status.OPEN
    everything: bool = False
    limit: int | None = None

    def filter(self, now: datetime) -> Filter:
        """As the database understands it.

        Raises:
            typer.Exit: a duration is none.
        """
        return Filter(
            ids=self.ids or None,
            queue=self.queue,
            error=self.error,
            before=_before(now, self.older, "--older"),
            after=_before(now, self.newer, "--newer"),
            status=self.status,
        )

    async def find(self, connection: Connection, now: datetime) -> list[Found]:
        """The messages that something is to be done with, the oldest first.

        Raises:
            typer.Exit: with 2, nothing says which are meant; with 1, one that is named is not among them.
        """
        narrowed = self.ids or self.queue or self.error or self.older or self.newer
        if not (narrowed or self.everything):
            raise failure("which messages? Name their ids, or a filter such as --queue, or --all", 2)
        if narrowed and self.everything:
            raise failure("--all means all of them: leave it out, or the ids and filters", 2)
        found = await parked_messages.find(connection, self.filter(now), limit=self.limit)
        missing = sorted(set(self.ids) - {each.id for each in found}) if self.limit is None else []
        if missing:
            raise failure(
                f"nothing was done: {'; '.join([await self._why_not(connection, each) for each in missing])}", 1
            )
        return found

    async def _why_not(self, connection: Connection, parked_id: int) -> str:
        row = await parked_messages.get(connection, parked_id)
        if row is None:
            return f"there is no message {parked_id}"
        if row.status is self.status:
            return f"message {parked_id} is not what the filters say"
        by = f" by {row.resolved_by}" if row.resolved_by else ""
        return f"message {parked_id} is {row.status}{by} (if you mean it: --status {row.status})"


def counted(found: Sequence[Found]) -> str:
    """`37 messages (example.main: 35, other: 2)`."""
    queues = Counter(each.queue for each in found)
    each = ", ".join(f"{queue}: {count}" for queue, count in queues.most_common())
    return f"{len(found)} message{'s' if len(found) != 1 else ''} ({each})"


def _before(now: datetime, age: str | None, option: str) -> datetime | None:
    if age is None:
        return None
    try:
        return now - parse_duration(age)
    except (ValueError, OverflowError) as error:
        raise failure(f"{option}: {error}", 2) from None
