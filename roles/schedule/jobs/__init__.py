"""The jobs of this service. A new one is a function in a file here, and a line in `JOBS`."""

from __future__ import annotations

from typing import Final

from roles.schedule.declarations import Job
from roles.schedule.jobs import students

JOBS: Final[tuple[Job, ...]] = (
    students.rename_students,
    students.hourly_report,
)
