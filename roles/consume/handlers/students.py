"""Messages about students."""

from __future__ import annotations

import structlog

from db import students
from db.pool import Work
from roles.consume import Ladder, consumer
from schema.students import NewStudent, StudentCreated

log = structlog.get_logger(__name__)


@consumer("example.main", exchange="example.exchange", retry=Ladder("5s", "30s", "5m"), concurrency=10)
async def create_student(message: NewStudent, work: Work) -> None:
    """Store the student that the message describes."""
    await students.create(work.connection, message)


@consumer("example.welcome", exchange="example.exchange", routing_key="student.created", concurrency=2)
async def welcome_student(message: StudentCreated, work: Work) -> None:
    """Welcome, in the log, a student who was created through the API."""
    student = await students.get(work.connection, message.id)
    log.info("student welcomed", student_id=message.id, name=student.name if student else None)
