"""Students: what a client sends, what it gets, and what is published about them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from schema.pages import PageQuery
from schema.text import NO_NUL
from schema.topic import Topic
from schema.version import Version

Name = Annotated[
    str,
    Field(min_length=1, max_length=200, description="The student's full name.", examples=["Ada Lovelace"]),
    NO_NUL,
]


class NewStudent(BaseModel):
    """A student to be stored: the body of `POST /students`, and the message on `example.main`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "Ada Lovelace"}]})

    name: Name


class StudentChange(BaseModel):
    """What to change of a student; what is left out stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "Ada King"}]})

    name: Name | None = None
    active: StrictBool | None = Field(None, description="False takes the student out of the list.", examples=[True])


class Student(BaseModel):
    """A student as stored."""

    id: int = Field(description="Given by the database.", examples=[1])
    name: str = Field(description="The student's full name.", examples=["Ada Lovelace"])
    active: bool = Field(description="False after a DELETE.", examples=[True])
    created_at: datetime = Field(examples=["2026-01-31T12:00:00Z"])
    updated_at: datetime = Field(examples=["2026-01-31T12:00:00Z"])
    version: Version


class StudentCreated(BaseModel):
    """A student was stored through the API: the message `student.created`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": 1}]})

    id: int = Field(description="The student's id.", examples=[1])


STUDENT_CREATED = Topic("student.created", StudentCreated, exchange="example.exchange", routing_key="student.created")


class StudentPageQuery(PageQuery):
    """Which page of the students."""

    active: bool = Field(True, description="False for those that were deleted.", examples=[True])
    name: Annotated[str, NO_NUL] = Field(
        "", max_length=200, description="Only those whose name begins with this.", examples=["Ada"]
    )


class StudentPage(BaseModel):
    """One page of students, by id."""

    items: list[Student]
    next: str | None = Field(None, description="Pass it as `cursor` to get the next page; null on the last.")
