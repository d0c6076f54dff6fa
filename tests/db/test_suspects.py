"""What becomes of marks when processes fall silent."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from db import suspects
from db.pool import Pool, connection
from db.query import Connection
from db.suspects import Key, State, Suspect

pytestmark = pytest.mark.anyio

THIS, OTHER = Key("q", "this"), Key("q", "other")
US, THEM = uuid4(), uuid4()
AGE = timedelta(seconds=90)
SILENT = timedelta(0)
"""Any process but the one that asks has been silent for so long."""


async def mark(conn: Connection, key: Key, process: UUID) -> int | None:
    return await suspects.mark(conn, key, process=process, age=AGE)


async def found(conn: Connection, key: Key) -> Suspect:
    row = await suspects.get(conn, key)
    assert row is not None
    return row


async def test_a_mark_keeps_all_others_away(pool: Pool) -> None:
    async with connection() as conn:
        assert await mark(conn, THIS, US) == 0
        assert await mark(conn, THIS, US) is None
        assert await mark(conn, THIS, THEM) is None
        assert await mark(conn, OTHER, THEM) == 0
        assert await found(conn, THIS) == Suspect(state=State.RUNNING, process=US, lived=None, deaths=0)


async def test_a_process_that_gives_signs_of_life_is_not_buried(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, THEM)
        await conn.execute("UPDATE suspect SET seen_at = now() - interval '1 minute'")
        await suspects.seen(conn, THEM)
        await suspects.bury(conn, process=US, lease=timedelta(seconds=50))
        assert (await found(conn, THIS)).state is State.RUNNING

        await suspects.bury(conn, process=THEM, lease=SILENT)
        assert (await found(conn, THIS)).state is State.RUNNING, "nobody buries itself"


async def test_what_a_dead_process_handled_is_accused_and_counted_after_a_control(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, THEM)
        assert await suspects.control(conn, THIS, process=US, age=AGE) is None, "nobody has died"
        await suspects.bury(conn, process=US, lease=SILENT)
        row = await found(conn, THIS)
        assert (row.state, row.process, row.deaths) == (State.ACCUSED, None, 0)
        assert row.lived is not None
        assert AGE <= row.lived < AGE + timedelta(seconds=60)
        assert await mark(conn, THIS, US) is None, "it must not be handled before the control"

        assert await suspects.control(conn, THIS, process=US, age=AGE) == row.lived
        assert await suspects.control(conn, THIS, process=THEM, age=AGE) is None, "one holds it back"
        assert await suspects.count(conn, THIS, process=THEM) is None
        assert await suspects.count(conn, THIS, process=US) == 1
        assert await mark(conn, THIS, US) == 1


async def test_a_death_within_the_control_drops_the_accusation(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, THEM)
        await suspects.bury(conn, process=US, lease=SILENT)
        await suspects.control(conn, THIS, process=THEM, age=AGE)
        await suspects.bury(conn, process=US, lease=SILENT)

        assert await suspects.count(conn, THIS, process=THEM) is None
        assert (await found(conn, THIS)).state is State.KNOWN
        assert await mark(conn, THIS, US) == 0


async def test_a_death_within_the_control_that_another_suspect_explains_does_not(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, THEM)
        await suspects.bury(conn, process=US, lease=SILENT)
        await suspects.control(conn, THIS, process=THEM, age=AGE)
        await mark(conn, OTHER, THEM)
        await suspects.bury(conn, process=US, lease=SILENT)

        assert (await found(conn, THIS)).state is State.ACCUSED
        assert (await found(conn, OTHER)).state is State.ACCUSED


async def test_who_lets_go_of_a_message_leaves_accusation_and_deaths_as_they_are(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, THEM)
        await suspects.release(conn, THIS, process=US)
        assert (await found(conn, THIS)).process == THEM, "it was not ours"
        await suspects.bury(conn, process=US, lease=SILENT)
        await suspects.control(conn, THIS, process=US, age=AGE)
        await suspects.release(conn, THIS, process=US)
        assert (await found(conn, THIS)).state is State.ACCUSED

        await suspects.control(conn, THIS, process=US, age=AGE)
        await suspects.count(conn, THIS, process=US)
        assert await mark(conn, THIS, US) == 1
        await suspects.release(conn, THIS, process=US)
        assert (await found(conn, THIS)).state is State.KNOWN
        assert await mark(conn, THIS, THEM) == 1


async def test_a_message_that_has_ended_is_forgotten_unless_somebody_else_handles_it(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, THEM)
        await suspects.forget(conn, THIS, process=US)
        assert await suspects.get(conn, THIS) is not None
        await suspects.forget(conn, THIS, process=THEM)
        assert await suspects.get(conn, THIS) is None


async def test_what_nobody_has_seen_for_long_is_pruned(pool: Pool) -> None:
    async with connection() as conn:
        await mark(conn, THIS, US)
        await mark(conn, OTHER, US)
        await conn.execute("UPDATE suspect SET seen_at = now() - interval '8 days' WHERE message_id = 'other'")

        assert await suspects.prune(conn, age=timedelta(days=7)) == 1
        assert await suspects.get(conn, THIS) is not None


async def test_a_message_without_an_id_is_known_by_its_body() -> None:
    assert suspects.key("q", b"id", b"x") == suspects.key("q", b"id", b"y")
    assert suspects.key("q", None, b"x") == suspects.key("q", b"", b"x") != suspects.key("q", None, b"y")
    assert suspects.key("q", b"\x00\xff", b"").message_id.isprintable()
