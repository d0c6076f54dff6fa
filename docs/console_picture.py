"""Draws `docs/console.svg`, the picture of the console in the README: `python -m docs.console_picture`."""  # noqa: INP001 - a script

from __future__ import annotations

import io
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from roles.log_records import line, shape
from roles.ops.console import render
from schema.status import (
    VERSION,
    ConsumerReport,
    Counts,
    JobReport,
    ParkingLotReport,
    PoolReport,
    RoleReport,
    StateName,
    Status,
)

WIDTH = 100
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
NOW = datetime(2026, 1, 31, 12, 0, 48, tzinfo=UTC)
START = NOW - timedelta(minutes=3, seconds=12)


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for second, event, fields in RECORDS:
        record = logging.LogRecord("roles.logs", logging.INFO, "", 0, event, None, None)
        record.fields = fields
        if event.startswith(("role failed", "not ")):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        console.print(
            Text.assemble(*line(shape(record, {}), f"12:00:{second:02}")), no_wrap=True, overflow="ellipsis"
        )
    console.print(render(STATUS, rates={"api": 212.4, "schedule": 0.0, "consume": 0.0}, width=WIDTH))
    # No fonts from another host: a reader's own monospaced one will do.
    picture = FONTS.sub("", console.export_svg(title="make run"))
    Path(__file__).with_name("console.svg").write_text(picture, encoding="utf-8")


LOST = "broker example: connection refused"
RECORDS: tuple[tuple[int, str, dict[str, object]], ...] = (
    (2, "tick ended", {"job": "rename_students", "status": "finished", "seconds": 0.004}),
    (41, "role failed", {"role": "rabbitmq", "failure": "bug", "error": "RabbitMQ ended: killed by SIGKILL"}),
    (41, "not subscribed", {"queue": "example.main", "reason": LOST}),
    (47, "role started", {"role": "rabbitmq", "took": 4.871}),
)


def _role(name: str, state: StateName, since: datetime, *counts: int, restarts: int = 0) -> RoleReport:
    taken, in_flight, finished, failed = counts or (0, 0, 0, 0)
    return RoleReport(
        name=name,
        state=state,
        since=since,
        restarts=restarts,
        failure=None,
        last_error=None,
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
        _role("ops", "running", START),
        _role("postgres", "running", START),
        _role("rabbitmq", "running", NOW - timedelta(seconds=1), restarts=1),
        _role("database", "running", START),
        _role("console", "running", START),
        _role("api", "running", START, 38_213, 6, 38_207, 0),
        _role("consume", "running", START, 9_120, 0, 9_117, 3),
        _role("schedule", "running", START, 4, 0, 4, 0),
    ],
    consumers=[
        ConsumerReport(
            queue="example.main",
            broker="example",
            subscribed=False,
            since=NOW - timedelta(seconds=2),
            reason=LOST,
            counts=Counts(taken=9_120, in_flight=0, finished=9_117, failed=3, given_back=0),
            retried=2,
            parked=1,
            unidentified=0,
            duplicates=0,
            parking_lot=ParkingLotReport(open=0, oldest_at=None, archived=0, reason=None),
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
