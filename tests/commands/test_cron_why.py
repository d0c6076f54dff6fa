"""`cron why`: each answer that there is, and both changes of the clocks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from commands.cron.verdict import Answer
from commands.cron.why import explain
from db import cron_runs
from db.cron_runs import RunStatus
from db.pool import Work
from db.pooled_connection import PooledConnection
from roles.schedule.declarations import cron, every
from roles.schedule.run import Run
from schema.settings import Settings
from tests.commands.support import Output, set_pause, utc, write

pytestmark = pytest.mark.anyio


@cron("30 2 * * *", timezone="Europe/Berlin", retention="30d", grace="10m")
async def nightly(work: Work) -> None: ...


@cron("*/30 * * * *", timezone="Europe/Berlin", missed="all", backlog=7)
async def rhythm(work: Work) -> None: ...


@every(minutes=5, missed="skip", jitter="1m")
async def ticker(work: Work) -> None: ...


@every(hours=1, transaction=False, rerun=True)
async def reindex(run: Run) -> None: ...


JOBS = (nightly, rhythm, ticker, reindex)
NOW = datetime(2025, 10, 27, 12, tzinfo=UTC)


async def answers(
    settings: Settings, out: Output, name: str, time: str, *, now: datetime = NOW
) -> list[dict[str, Any]]:
    assert await explain(settings, name=name, time=time, jobs=JOBS, now=now, as_json=True) == 0
    found: list[dict[str, Any]] = json.loads(out())
    return found


async def answer(settings: Settings, out: Output, name: str, time: str, *, now: datetime = NOW) -> tuple[str, str]:
    [found] = await answers(settings, out, name, time, now=now)
    return found["answer"], found["because"]


async def test_a_time_at_which_the_job_is_not_due_names_its_neighbours(settings: Settings, out: Output) -> None:
    await explain(settings, name="nightly", time="2025-10-25T12:00", jobs=JOBS, now=NOW, as_json=False)
    assert (
        out()
        == """\
job          nightly: 30 2 * * * (Europe/Berlin)
at           Sat 2025-10-25 12:00:00+02:00
answer       not due
because      30 2 * * * (Europe/Berlin) is not due at this moment
tick before  Sat 2025-10-25 02:30:00+02:00
tick after   Sun 2025-10-26 02:30:00+02:00"""
    )


async def test_a_time_that_comes_twice_is_told_for_both(settings: Settings, database_url: str, out: Output) -> None:
    write(database_url, "nightly", "2025-10-26T00:30")
    await explain(settings, name="nightly", time="2025-10-26T02:30", jobs=JOBS, now=NOW, as_json=False)
    assert (
        out()
        == """\
job          nightly: 30 2 * * * (Europe/Berlin)
at           Sun 2025-10-26 02:30:00+02:00
answer       finished
because      it ran on web-1:7 and finished in 1.5 s
clocks       02:30 comes twice on that day: clocks go back by 1h, from 03:00 to 02:00
run          nightly@2025-10-26T00:30:00Z
tick before  Sat 2025-10-25 02:30:00+02:00
tick after   Mon 2025-10-27 02:30:00+01:00

job          nightly: 30 2 * * * (Europe/Berlin)
at           Sun 2025-10-26 02:30:00+01:00
answer       not due
because      clocks show 02:30 for the second time; its tick was when they first did
clocks       02:30 comes twice on that day: clocks go back by 1h, from 03:00 to 02:00
tick before  Sun 2025-10-26 02:30:00+02:00
tick after   Mon 2025-10-27 02:30:00+01:00"""
    )


async def test_a_time_that_does_not_come_is_the_first_moment_after_the_gap(
    settings: Settings, database_url: str, out: Output
) -> None:
    now = utc("2025-03-30T12:00")
    write(database_url, "nightly", "2025-03-30T01:00", "failed", attempts=3, error="ValueError: no\ntraceback")
    await explain(settings, name="nightly", time="2025-03-30T02:30", jobs=JOBS, now=now, as_json=False)
    assert (
        out()
        == """\
job          nightly: 30 2 * * * (Europe/Berlin)
at           Sun 2025-03-30 03:00:00+02:00
answer       failed
because      it ran on web-1:7 and failed at attempt 3: ValueError: no
clocks       02:30 does not come on that day: clocks go forward by 1h, from 02:00 to 03:00
run          nightly@2025-03-30T01:00:00Z
tick before  Sat 2025-03-29 02:30:00+01:00
tick after   Mon 2025-03-31 02:30:00+02:00"""
    )
    [at_three] = await answers(settings, out, "nightly", "2025-03-30T03:00", now=now)
    assert at_three["clocks"] == "for 02:30, which does not come on that day"


async def test_a_rhythm_runs_in_both_passes(settings: Settings, database_url: str, out: Output) -> None:
    for time in ("2025-10-26T00:30", "2025-10-26T01:30"):
        write(database_url, "rhythm", time)
    both = await answers(settings, out, "rhythm", "2025-10-26 02:30")
    assert [(each["local"], each["answer"]) for each in both] == [
        ("2025-10-26T02:30:00+02:00", "finished"),
        ("2025-10-26T02:30:00+01:00", "finished"),
    ]
    assert both[1]["clocks"].startswith("02:30 comes twice on that day")


async def test_an_offset_says_which(settings: Settings, out: Output) -> None:
    [only] = await answers(settings, out, "rhythm", "2025-10-26T02:30+01:00")
    assert (only["at"], only["clocks"]) == ("2025-10-26T01:30:00Z", "02:30 for the second time")


async def test_what_was_not_run_says_the_reason_of_the_book(
    settings: Settings, database_url: str, out: Output
) -> None:
    write(database_url, "nightly", "2025-10-23T00:30", "skipped", error="an earlier run of the job still went on")
    write(database_url, "nightly", "2025-10-24T00:30", "skipped", error="the job is paused by ada@desk since …: why")
    write(database_url, "nightly", "2025-10-25T00:30", "missed", error="nothing could start it within its grace")
    assert await answer(settings, out, "nightly", "2025-10-23T02:30") == (
        "skipped",
        "it was not run: an earlier run of the job still went on",
    )
    assert await answer(settings, out, "nightly", "2025-10-24T02:30") == (
        "skipped",
        "it was not run: the job is paused by ada@desk since …: why",
    )
    assert await answer(settings, out, "nightly", "2025-10-25T02:30") == (
        "missed",
        "it was not run: nothing could start it within its grace",
    )


async def test_a_row_that_stands_for_many_ticks_tells_of_each(
    settings: Settings, database_url: str, out: Output
) -> None:
    write(database_url, "nightly", "2025-10-20T00:30", "missed", through=utc("2025-10-24T00:30"), error="too late")
    expected = (
        "missed",
        "all ticks from Mon 2025-10-20 02:30:00+02:00 to Fri 2025-10-24 02:30:00+02:00 were not run: too late",
    )
    for day in (20, 22, 24):
        assert await answer(settings, out, "nightly", f"2025-10-{day}T02:30") == expected
    assert (await answer(settings, out, "nightly", "2025-10-25T02:30"))[0] == "open"
    write(database_url, "nightly", "2025-10-21T00:30")
    assert (await answer(settings, out, "nightly", "2025-10-21T02:30"))[0] == "finished", "it has a row of its own"
    assert await answer(settings, out, "nightly", "2025-10-22T02:30") == expected


async def test_a_long_run_goes_on_or_was_cut_off(settings: Settings, database_url: str, out: Output) -> None:
    write(
        database_url,
        "reindex",
        "2025-10-27T11:00",
        "claimed",
        progress="page 7",
        lease_expires_at=NOW + timedelta(seconds=20),
    )
    write(database_url, "reindex", "2025-10-27T10:00", "claimed", lease_expires_at=NOW - timedelta(seconds=1))
    assert await answer(settings, out, "reindex", "2025-10-27T11:00") == (
        "running",
        "it runs on web-1:7 since Mon 2025-10-27 11:00:01+00:00, page 7",
    )
    state, because = await answer(settings, out, "reindex", "2025-10-27T10:00")
    assert state == "cut off"
    assert because.endswith("its process died or lost the database: it is to be run again elsewhere")


async def test_a_tick_that_is_one_transaction_is_known_by_its_lock(
    settings: Settings, database_url: str, out: Output
) -> None:
    at = utc("2025-10-27T11:30")
    write(database_url, "rhythm", "2025-10-27T11:00")
    async with await PooledConnection.connect(database_url) as replica:
        assert await cron_runs.lock_tick(replica, "rhythm", at)
        state, because = await answer(settings, out, "rhythm", "2025-10-27T11:30Z")
        assert state == "running"
        assert because.startswith("a replica is dealing with it, in a transaction that began at ")
        assert (await answer(settings, out, "rhythm", "2025-10-27T12:00Z"))[0] == "open"
        assert (await answer(settings, out, "nightly", "2025-10-27T02:30"))[0] == "never seen"
    assert (await answer(settings, out, "rhythm", "2025-10-27T11:30Z"))[0] == "open"


async def test_what_is_to_come(settings: Settings, database_url: str, out: Output) -> None:
    assert await answer(settings, out, "nightly", "2025-10-28T02:30") == ("not yet", "it is to start in 13:30:00")
    state, because = await answer(settings, out, "ticker", "2025-10-27T12:00")
    assert state == "not yet"
    assert "jitter" in because
    set_pause(database_url, "nightly", "the disk is full")
    assert await answer(settings, out, "nightly", "2025-10-28T02:30") == (
        "not yet",
        "it is to start in 13:30:00; the job is paused by ada@desk since 2025-10-24T10:00:00+00:00: the disk is full",
    )


async def test_what_is_due_and_has_no_row_yet(settings: Settings, database_url: str, out: Output) -> None:
    write(database_url, "nightly", "2025-10-25T00:30")
    soon = utc("2025-10-26T00:35")
    assert await answer(settings, out, "nightly", "2025-10-26T02:30+02:00", now=soon) == (
        "open",
        "it is due, and within its grace of 10m: a replica is about to start it",
    )
    assert await answer(settings, out, "nightly", "2025-10-26T02:30+02:00") == (
        "open",
        (
            "no replica has dealt with a tick of this job since that of Sat 2025-10-25 02:30:00+02:00; "
            "when one does, the latest open tick is run and the others are missed (missed='latest')"
        ),
    )
    write(database_url, "rhythm", "2025-10-25T00:30")
    write(database_url, "ticker", "2025-10-25T00:30")
    assert (await answer(settings, out, "rhythm", "2025-10-25T03:00"))[1].endswith(
        "the last 7 open ticks are run and the others are missed (missed='all')"
    )
    assert (await answer(settings, out, "ticker", "2025-10-25T03:00"))[1].endswith("they are missed (missed='skip')")


async def test_what_the_book_does_not_reach_back_to(settings: Settings, database_url: str, out: Output) -> None:
    assert (await answer(settings, out, "nightly", "2025-10-26T02:30+02:00"))[0] == "never seen"
    write(database_url, "nightly", "2025-10-20T00:30")
    assert await answer(settings, out, "nightly", "2025-10-19T02:30") == (
        "before the job",
        "the first tick of this job that a replica dealt with is that of Mon 2025-10-20 02:30:00+02:00",
    )
    assert await answer(settings, out, "nightly", "2025-09-01T02:30") == (
        "pruned",
        "rows of this job are kept for 30d, and it is older",
    )


async def test_a_tick_that_was_left_out(settings: Settings, database_url: str, out: Output) -> None:
    write(database_url, "nightly", "2025-10-23T00:30")
    write(database_url, "nightly", "2025-10-25T00:30")
    state, because = await answer(settings, out, "nightly", "2025-10-24T02:30")
    assert state == "no row"
    assert because.startswith("later ticks have a row and it has none: ")


async def test_a_run_by_hand_is_found_at_its_own_moment(settings: Settings, database_url: str, out: Output) -> None:
    write(database_url, "nightly", "2025-10-25T10:00:00.25", trigger="manual", triggered_by="ada@desk")
    [found] = await answers(settings, out, "nightly", "2025-10-25T10:00:00.250Z")
    assert (found["answer"], found["because"]) == ("by hand", "it was no tick: ada@desk had it run, and it finished")
    assert found["run"]["trigger"] == "manual"


async def test_the_keys_of_the_answer(settings: Settings, database_url: str, out: Output) -> None:
    write(database_url, "nightly", "2025-10-25T00:30")
    [found] = await answers(settings, out, "nightly", "2025-10-26T02:30+02:00")
    found.pop("because")
    assert found == {
        "job": "nightly",
        "schedule": "30 2 * * * (Europe/Berlin)",
        "at": "2025-10-26T00:30:00Z",
        "local": "2025-10-26T02:30:00+02:00",
        "answer": "open",
        "clocks": "the first 02:30 of two; the second is no tick",
        "run": None,
        "previous": "2025-10-25T00:30:00Z",
        "next": "2025-10-27T01:30:00Z",
    }


def test_every_status_of_the_book_is_an_answer() -> None:
    assert {status.value for status in RunStatus} - {"claimed"} <= {answer.value for answer in Answer}
