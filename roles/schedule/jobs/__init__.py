"""The jobs of this service. A new one is a function in a file here, and a line in `JOBS`."""

from __future__ import annotations

from typing import Final

from roles.schedule.declarations import Job
from roles.schedule.jobs import pruning, students

JOBS: Final[tuple[Job, ...]] = (
    pruning.prune_inbox,
    pruning.prune_parked_messages,
    students.rename_students,
    students.hourly_report,
)
