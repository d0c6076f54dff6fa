"""Cron jobs, each tick once in the whole cluster. Yours are in `roles.schedule.jobs`."""

from __future__ import annotations

from roles.schedule.declarations import Job, cron, every

__all__ = ["Job", "cron", "every"]
