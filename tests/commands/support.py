"""A book that tests write, for the verbs that read it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

Output = Callable[[], str]
"""What was printed since the last call, without the spaces at the ends of lines."""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def write(url: str, job: str, scheduled_at: str, status: str = "finished", **others: Any) -> None:
    """A row of the book; unless it was not run, it started a second after it was due and took `seconds`."""
    due = utc(scheduled_at)
    started = due + timedelta(seconds=1)
    ended = started + timedelta(seconds=others.pop("seconds", 1.5))
    row: dict[str, Any] = {"job": job, "scheduled_at": due, "status": status, "host": "web-1:7"}
    if status in ("finished", "failed"):
        row |= {"started_at": started, "finished_at": ended, "attempts": 1}
    elif status == "claimed":
        row |= {"started_at": started, "attempts": 1}
    else:
        row |= {"finished_at": started}
    row |= others
    columns = ", ".join(row)
    places = ", ".join(f"%({name})s" for name in row)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"INSERT INTO cron_run ({columns}) VALUES ({places})".encode(), row)


def set_pause(url: str, job: str, reason: str | None) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO cron_pause VALUES (%s, '2025-10-24 10:00Z', 'ada@desk', %s)", (job, reason))
