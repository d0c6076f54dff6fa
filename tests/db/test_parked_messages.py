"""The parking lot as a table: what is found, and what is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from db import parked_acts, parked_messages
from db.cron_runs import RunStatus
from db.parked_acts import Act
from db.parked_messages import Filter, NewParkedMessage, Status
from db.pool import Pool, unit_of_work
from roles.resources import Resources
from roles.schedule.jobs.pruning import prune_parked_messages
from roles.schedule.manual import run_by_hand
from schema.settings import Settings, current_settings

pytestmark = pytest.mark.anyio


def message(number: int, **fields: object) -> NewParkedMessage:
    values = {
        "broker": "example",
        "queue": "q",
        "message_id": None,
        "body": b"\x00\xff",
        "properties": b"\x00\x00",
        "error": "no",
        "attempts": 1,
        "parked_at": datetime.now(UTC) - timedelta(days=365),
        "parking": str(number),
        "fingerprint": None,
        "note": None,
    }
    return NewParkedMessage(**values | fields)  # type: ignore[arg-type]


async def test_what_was_resolved_long_ago_is_forgotten_and_what_is_open_never(pool: Pool) -> None:
    settings = Settings.model_validate({"consume": {"parked_retention": "30d"}})
    async with unit_of_work() as work:
        await parked_messages.archive(work.connection, [message(number) for number in range(4)])
        for parked_id, age in ((1, 40), (2, 20), (3, 40)):
            status = Status.DROPPED if parked_id == 1 else Status.REPLAYED
            await parked_messages.resolve(work.connection, [parked_id], status=status, by="me")
            await parked_acts.record(work.connection, [parked_id], Act.DROP, who="me", how_many=1)
            await work.connection.execute(
                "UPDATE parked_message SET resolved_at = now() - make_interval(days => %s) WHERE id = %s",
                [age, parked_id],
            )
    token = current_settings.set(settings)
    resources = Resources(settings=settings, pool=pool, amqp_urls={})
    run = await run_by_hand([prune_parked_messages], "prune_parked_messages", user="test", resources=resources)
    current_settings.reset(token)

    assert run is not None
    assert (run.status, run.progress) == (RunStatus.FINISHED, "2 parked messages forgotten")
    async with unit_of_work() as work:
        left = await parked_messages.find(work.connection, Filter(), limit=None)
        assert [each.id for each in left] == [2, 4]
        assert await parked_acts.of_message(work.connection, 1) == []
        assert len(await parked_acts.of_message(work.connection, 2)) == 1


async def test_few_at_a_time(pool: Pool) -> None:
    async with unit_of_work() as work:
        await parked_messages.archive(work.connection, [message(number) for number in range(5)])
        await parked_messages.resolve(work.connection, [1, 2, 3, 4], status=Status.DROPPED, by="me")
        await work.connection.execute(
            b"UPDATE parked_message SET resolved_at = now() - interval '1 day' WHERE id < 5"
        )
        for pruned in (3, 1, 0):
            assert await parked_messages.prune(work.connection, older_than=timedelta(0), at_most=3) == pruned


async def test_open_messages_are_counted_by_queue(pool: Pool) -> None:
    async with unit_of_work() as work:
        await parked_messages.archive(work.connection, [message(1), message(2), message(3, queue="other")])
        await parked_messages.resolve(work.connection, [2], status=Status.DROPPED, by="me")
        counts = {each.queue: each.count for each in await parked_messages.open_counts(work.connection)}
    assert counts == {"q": 1, "other": 1}
