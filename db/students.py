"""Students: the table, then its queries."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    bindparam,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db.metadata import metadata
from db.query import Connection, Query
from db.versions import NEXT, Outdated, Versions, at_version
from schema.students import NewStudent, Student, StudentChange

student = Table(
    "student",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now(), onupdate=func.now()),
    Column("version", Integer, nullable=False, server_default=text("1"), onupdate=NEXT),
)
Index("student_active_idx", student.c.active, student.c.id)
Index("student_name_idx", student.c.name, postgresql_ops={"name": "text_pattern_ops"})

GET = Query(select(student).where(student.c.id == bindparam("id")))
PAGE = Query(
    select(student)
    .where(
        student.c.id > bindparam("after"),
        student.c.active == bindparam("active"),
        func.starts_with(student.c.name, bindparam("name")),
    )
    .order_by(student.c.id)
    .limit(bindparam("limit"))
)
CREATE = Query(insert(student).values(name=bindparam("name")).returning(student))
CHANGE = Query(
    update(student)
    .where(student.c.id == bindparam("id_"), at_version(student))
    .values(
        name=func.coalesce(bindparam("name_", type_=Text), student.c.name),
        active=func.coalesce(bindparam("active_", type_=Boolean), student.c.active),
    )
    .returning(student)
)
RENAME_ACTIVE = Query(update(student).where(student.c.active).values(name=student.c.name + bindparam("suffix")))
COUNT_ACTIVE = Query(select(func.count()).select_from(student).where(student.c.active))


async def get(connection: Connection, student_id: int) -> Student | None:
    """The student, or None if there is none."""
    return await GET.one(connection, Student, id=student_id)


async def page(
    connection: Connection, *, after: int, limit: int, active: bool = True, name: str = ""
) -> list[Student]:
    """The first `limit` students whose id is greater than `after` and whose name begins with `name`, by id."""
    return await PAGE.all(connection, Student, after=after, limit=limit, active=active, name=name)


async def create(connection: Connection, new: NewStudent) -> Student:
    """Stores a student."""
    created = await CREATE.one(connection, Student, name=new.name)
    assert created is not None
    return created


async def change(
    connection: Connection, student_id: int, changes: StudentChange, *, versions: Versions = None
) -> Student | None:
    """Changes what `changes` names, and returns the student; None if there is none.

    Raises:
        Outdated: it is at none of these `versions`.
    """
    values = {"name_": changes.name, "active_": changes.active}
    changed = await CHANGE.one(connection, Student, id_=student_id, versions=versions, **values)
    if changed is None and versions is not None and await get(connection, student_id):
        raise Outdated
    return changed


async def rename_active(connection: Connection, *, suffix: str) -> int:
    """Appends `suffix` to the name of every active student, and returns how many there were."""
    return await RENAME_ACTIVE.execute(connection, suffix=suffix)


async def count_active(connection: Connection) -> int:
    """How many students are active."""
    return int(await COUNT_ACTIVE.scalar(connection))
