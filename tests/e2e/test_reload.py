"""`--reload`: a change of the source restarts the application."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.e2e.support import ROOT, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the source, to be changed."""
    copy = tmp_path / "source"
    for name in ("app.py", "checks.py", "clients", "commands", "db", "migrations", "roles", "schema"):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(origin, copy / name)
    return copy


async def test_a_change_of_the_source_restarts_the_application(source: Path, services: dict[str, str]) -> None:
    environ = {**services, "PYTHONPATH": str(source)}
    async with running(
        source, "--reload", "--roles", "api", environ=environ, script=source / "app.py", wait=False
    ) as app:
        first = await app.logged("ready", within=60)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{first['api']}/api/v1/students")).status_code == 200

        messages = source / "schema" / "students.py"
        messages.write_text(messages.read_text().replace("The student's full name.", "What they are called."))
        changed = await app.logged("source changed: restarting", files=["schema/students.py"])
        seen = app.records.index(changed)
        await app.logged("drain finished", since=seen)
        await app.logged("ready", since=seen, within=60)

        messages.write_text("this is no Python")
        await app.logged("the application ended: it starts again after the next change", within=60)
        messages.write_text((ROOT / "schema" / "students.py").read_text())
        await app.logged("ready", since=len(app.records) - 1, within=60)
        assert await app.stop() == 0
