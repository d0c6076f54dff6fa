"""The consumers of this service. A new one is a new file here, and a line in `CONSUMERS`."""

from __future__ import annotations

from typing import Any

from roles.consume.declarations import Consumer
from roles.consume.handlers import students

CONSUMERS: tuple[Consumer[Any], ...] = (
    students.create_student,
    students.welcome_student,
)
