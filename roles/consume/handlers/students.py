"""Messages about students."""

from __future__ import annotations

from db import students
from db.pool import Work
from roles.consume import Ladder, consumer
from schema.students import NewStudent


@consumer("example.main", exchange="example.exchange", retry=Ladder("5s", "30s", "5m"), concurrency=10)
async def create_student(message: NewStudent, work: Work) -> None:
    """Store the student that the message describes."""
    await students.create(work.connection, message)
