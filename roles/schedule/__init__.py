"""Cron jobs, each tick once in the whole cluster. Yours are in `roles.schedule.jobs`."""

from __future__ import annotations

from roles.schedule.declarations import Job, cron, every
from roles.schedule.run import Run

__all__ = ["Job", "Run", "cron", "every"]
