"""Old claims are forgotten, a few at a time and in nobody's way."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from db import inbox
from db.cron_runs import RunStatus
from db.pool import Pool, connection, transaction, unit_of_work
from roles.consume.claim import Claim
from roles.resources import Resources
from roles.schedule.jobs import pruning
from roles.schedule.manual import run_by_hand
from schema.settings import Settings, current_settings

pytestmark = pytest.mark.anyio

AGES = "INSERT INTO inbox SELECT 'q', n, now() - n * interval '1 day' FROM generate_series(1, 9) AS n"


async def left() -> list[str]:
    async with connection() as conn:
        rows = await (await conn.execute("SELECT message_id FROM inbox ORDER BY received_at DESC")).fetchall()
    return [message_id for (message_id,) in rows]


async def prune(*, days: float, at_most: int = 100) -> int:
    async with unit_of_work() as work:
        return await inbox.prune(work.connection, older_than=timedelta(days=days), at_most=at_most)


async def test_the_oldest_go_first_and_no_more_than_asked_for(pool: Pool) -> None:
    async with connection() as conn:
        await conn.execute(AGES)

    assert await prune(days=3.5, at_most=2) == 2
    assert await left() == ["1", "2", "3", "4", "5", "6", "7"]
    assert await prune(days=3.5) == 4
    assert await prune(days=3.5) == 0
    assert await left() == ["1", "2", "3"]


async def test_whoever_prunes_at_the_same_time_is_not_waited_for(pool: Pool) -> None:
    async with connection() as conn:
        await conn.execute(AGES)
    async with unit_of_work() as work:
        assert await inbox.prune(work.connection, older_than=timedelta(days=0.5), at_most=4) == 4
        with anyio.fail_after(30):
            assert await prune(days=0.5, at_most=4) == 4
    assert await left() == ["1"]


async def test_claims_go_on_while_it_is_pruned(pool: Pool) -> None:
    async with connection() as conn:
        await conn.execute(AGES)
    async with unit_of_work() as pruning:
        await inbox.prune(pruning.connection, older_than=timedelta(days=0.5), at_most=100)
        with anyio.fail_after(30):
            claim = Claim("q", b"new")
            async with transaction(claim.begin):
                assert not claim.duplicate
            async with transaction(claim.begin):
                assert claim.duplicate
    assert await left() == ["new"]


async def test_the_job_forgets_what_is_older_than_the_retention_in_as_many_steps_as_it_takes(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_MOST", 2)
    settings = Settings.model_validate({"consume": {"inbox_retention": "84h"}})
    token = current_settings.set(settings)
    async with connection() as conn:
        await conn.execute(AGES)
    resources = Resources(settings=settings, pool=pool, amqp_urls={})
    run = await run_by_hand([pruning.prune_inbox], "prune_inbox", user="test", resources=resources)
    current_settings.reset(token)

    assert run is not None
    assert (run.status, run.progress) == (RunStatus.FINISHED, "6 messages forgotten")
    assert await left() == ["1", "2", "3"]
