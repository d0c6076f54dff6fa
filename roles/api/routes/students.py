"""Students."""

from __future__ import annotations

from quart import Blueprint, Response, request
from quart_schema import document_response, tag_blueprint, validate_querystring, validate_request

from db import students
from db.pool import connection, unit_of_work
from roles.api.access import requires
from roles.api.conditions import if_match
from roles.api.pages import Page
from roles.api.replies import NoContent, not_found, reply
from schema.problems import Problem
from schema.students import (
    STUDENT_CREATED,
    NewStudent,
    Student,
    StudentChange,
    StudentCreated,
    StudentPage,
    StudentPageQuery,
)

blueprint = Blueprint("students", __name__, url_prefix="/students")
tag_blueprint(blueprint, ["students"])


@blueprint.get("")
@requires("students:read")
@validate_querystring(StudentPageQuery)
@document_response(StudentPage)
async def list_students(query_args: StudentPageQuery) -> Response:
    """List students.

    By id, a page at a time: the `Link` header leads to the next one, and so does `next`, passed as `cursor`.
    """
    async with connection() as conn:
        page = await Page.open(conn, query_args)
        found = await students.page(
            conn, after=page.after, limit=page.limit, active=query_args.active, name=query_args.name
        )
    return page.reply(StudentPage, found)


@blueprint.post("")
@requires("students:write")
@validate_request(NewStudent)
@document_response(Student, 201)
async def create_student(data: NewStudent) -> Response:
    """Create a student.

    Stores it and publishes `student.created`, in one transaction. The `Location` header says where the student is.
    """
    async with unit_of_work() as work:
        created = await students.create(work.connection, data)
        await work.publish(STUDENT_CREATED, StudentCreated(id=created.id))
    return reply(created, 201, location=f"{request.path}/{created.id}")


@blueprint.get("/<int:student_id>")
@requires("students:read")
@document_response(Student)
@document_response(Problem, 404)
async def get_student(student_id: int) -> Response:
    """Get a student by id.

    One that was deleted is found too, with `active: false`.
    """
    async with connection() as conn:
        found = await students.get(conn, student_id)
    return reply(found or not_found("student", student_id))


@blueprint.patch("/<int:student_id>")
@requires("students:write")
@validate_request(StudentChange)
@document_response(Student)
@document_response(Problem, 404)
@document_response(Problem, 412)
async def change_student(student_id: int, data: StudentChange) -> Response:
    """Change a student.

    What is left out, or null, stays as it is. `active: true` undoes a DELETE.
    """
    async with unit_of_work() as work:
        changed = await students.change(work.connection, student_id, data, versions=if_match())
    return reply(changed or not_found("student", student_id))


@blueprint.delete("/<int:student_id>")
@requires("students:write")
@document_response(NoContent, 204)
@document_response(Problem, 404)
@document_response(Problem, 412)
async def delete_student(student_id: int) -> Response:
    """Delete a student.

    The student is no longer listed, and can still be read by id.
    """
    async with unit_of_work() as work:
        gone = StudentChange(active=False)
        deleted = await students.change(work.connection, student_id, gone, versions=if_match())
    return reply(status=204) if deleted else reply(not_found("student", student_id))
