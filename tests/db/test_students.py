"""The student queries, on a real database."""

from __future__ import annotations

import pytest

from db import students
from db.pool import connection, unit_of_work
from schema.students import NewStudent, Student, StudentChange

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pool")]


async def create(*names: str) -> list[Student]:
    async with unit_of_work() as work:
        return [await students.create(work.connection, NewStudent(name=name)) for name in names]


async def test_a_created_student_is_found() -> None:
    [ada] = await create("Ada")
    async with connection() as conn:
        assert await students.get(conn, ada.id) == ada
        assert await students.get(conn, ada.id + 1) is None
    assert ada.active
    assert ada.created_at == ada.updated_at


async def test_pages_hold_the_active_students_by_id() -> None:
    ada, ben, cyd, dan = await create("Ada", "Ben", "Cyd", "Dan")
    async with connection() as conn:
        await students.change(conn, ben.id, StudentChange(active=False))
        first = await students.page(conn, after=0, limit=2)
        second = await students.page(conn, after=first[-1].id, limit=2)
    assert [found.id for found in first] == [ada.id, cyd.id]
    assert [found.id for found in second] == [dan.id]


async def test_a_change_touches_only_what_it_names() -> None:
    [ada] = await create("Ada")
    async with connection() as conn:
        renamed = await students.change(conn, ada.id, StudentChange(name="Ada King"))
        assert renamed is not None
        assert (renamed.name, renamed.active, renamed.created_at) == ("Ada King", True, ada.created_at)
        assert renamed.updated_at > ada.updated_at
        assert await students.change(conn, ada.id + 1, StudentChange(name="Nobody")) is None


async def test_renaming_touches_every_active_student_and_counts_them() -> None:
    _, ben, _ = await create("Ada", "Ben", "Cyd")
    async with connection() as conn:
        await students.change(conn, ben.id, StudentChange(active=False))
        assert await students.count_active(conn) == 2
        assert await students.rename_active(conn, suffix="_new") == 2
        names = [found.name for found in await students.page(conn, after=0, limit=10)]
        still = await students.get(conn, ben.id)
    assert names == ["Ada_new", "Cyd_new"]
    assert still is not None
    assert still.name == "Ben"
