"""Rolecall with its consumer in batches of a hundred, each of them one insert."""

from __future__ import annotations

from sqlalchemy import ARRAY, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert

import roles.consume.handlers
from app import cli
from db.pool import Work
from db.query import Query
from db.students import student
from roles.consume import consumer
from schema.students import NewStudent

CREATE_ALL = Query(
    insert(student).from_select([student.c.name], select(func.unnest(bindparam("names", type_=ARRAY(Text)))))
)


@consumer("example.main", exchange="example.exchange", batch=100, linger="20ms", concurrency=2)
async def create_students(messages: list[NewStudent], work: Work) -> None:
    """Stores the students that the messages describe."""
    await CREATE_ALL.execute(work.connection, names=[message.name for message in messages])


roles.consume.handlers.CONSUMERS = (create_students,)

if __name__ == "__main__":
    cli()
