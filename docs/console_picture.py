"""Draws `docs/console.svg`, the picture of the console in the README: `python -m docs.console_picture`."""  # noqa: INP001 - a script

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from roles.log_records import line, shape
from roles.ops.console import render
from schema.status import VERSION, ConsumerReport, Counts, JobReport, PoolReport, RoleReport, StateName, Status

WIDTH = 100
NOW = datetime(2026, 1, 31, 12, 0, 48, tzinfo=UTC)
START = NOW - timedelta(minutes=3, seconds=12)


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for second, event, fields in RECORDS:
        record = logging.LogRecord("roles.logs", logging.INFO, "", 0, event, None, None)
        record.fields = fields
        if "failed" in event:
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        console.print(Text.assemble(*line(shape(record), f"12:00:{second:02}")), no_wrap=True, overflow="ellipsis")
    console.print(render(STATUS, rates={"api": 212.4, "schedule": 0.0, "consume": 0.0}, width=WIDTH))
    console.save_svg(str(Path(__file__).with_name("console.svg")), title="make run")


RECORDS: tuple[tuple[int, str, dict[str, object]], ...] = (
    (2, "job finished", {"role": "schedule", "job": "rename_students", "seconds": 0.004}),
    (46, "role failed", {"role": "consume", "failure": "unavailable", "error": "RabbitMQ: connection lost"}),
    (47, "role started", {"role": "rabbitmq", "took": 0.871}),
)


def _role(name: str, state: StateName, since: datetime, *counts: int, error: str | None = None) -> RoleReport:
    taken, in_flight, finished, failed = counts or (0, 0, 0, 0)
    return RoleReport(
        name=name,
        state=state,
        since=since,
        restarts=2 if error else 0,
        failure="unavailable" if error else None,
        last_error=error,
        counts=Counts(taken=taken, in_flight=in_flight, finished=finished, failed=failed, given_back=0),
    )


STATUS = Status(
    version=VERSION,
    pid=4711,
    host="laptop",
    now=NOW,
    started_at=START,
    uptime=192,
    draining=False,
    roles=[
        _role("postgres", "running", START),
        _role("rabbitmq", "running", NOW - timedelta(seconds=1)),
        _role("database", "running", START),
        _role("api", "running", START, 38_213, 6, 38_207, 0),
        _role(
            "consume", "backoff", NOW - timedelta(seconds=2), 9_120, 0, 9_117, 3, error="RabbitMQ: connection lost"
        ),
        _role("schedule", "running", START, 4, 0, 4, 0),
        _role("ops", "running", START),
    ],
    consumers=[
        ConsumerReport(
            queue="example.main",
            broker="example",
            subscribed=False,
            since=NOW - timedelta(seconds=2),
            reason="RabbitMQ: connection lost",
            counts=Counts(taken=9_120, in_flight=0, finished=9_117, failed=3, given_back=0),
            retried=2,
            parked=1,
            unidentified=0,
        )
    ],
    jobs=[
        JobReport(
            name=name,
            schedule=schedule,
            next_at=NOW + wait,
            last_at=None,
            last_status=None,
            last_error=None,
            last_seconds=None,
        )
        for name, schedule, wait in (
            ("rename_students", "every 1m", timedelta(seconds=12)),
            ("hourly_report", "0 * * * * (UTC)", timedelta(minutes=59, seconds=12)),
        )
    ],
    pool=PoolReport(
        size=8,
        max_size=20,
        available=2,
        waiting=0,
        requests=47_431,
        requests_failed=0,
        connections_failed=0,
        connections_lost=0,
    ),
)

if __name__ == "__main__":
    main()
