"""FastAPI with SQLAlchemy: `GET` and `POST` of a student, validated and documented, with Rolecall's models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession

from bench.peers.database import StudentRow, sessions
from schema.students import NewStudent, Student

app = FastAPI()


async def open_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(open_session)]


@app.get("/api/v1/students/{student_id}", response_model=Student)
async def get_student(student_id: int, session: Session) -> StudentRow:
    """Get a student by id."""
    found = await session.get(StudentRow, student_id)
    if found is None:
        raise HTTPException(404, f"There is no student {student_id}.")
    return found


@app.post("/api/v1/students", response_model=Student, status_code=201)
async def create_student(new: NewStudent, session: Session) -> StudentRow:
    """Create a student."""
    created = StudentRow(name=new.name)
    session.add(created)
    await session.commit()
    return created
