"""The routes of the API: a blueprint per module, each named here."""

from __future__ import annotations

from quart import Blueprint

from roles.api.routes import students, timezone

ROUTES: tuple[Blueprint, ...] = (
    students.blueprint,
    timezone.blueprint,
)
"""All of them. Each has its own prefix below `/api/v1`."""
