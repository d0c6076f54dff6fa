"""The jobs of this application. A new one is a line in `JOBS`."""

from __future__ import annotations

from typing import Final

from roles.schedule.declarations import Job
from roles.schedule.jobs.students import hourly_report, rename_students

JOBS: Final[tuple[Job, ...]] = (
    rename_students,
    hourly_report,
)
