"""All roles in one process, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.support import FAULTY_APP, channel, publish, running

pytestmark = pytest.mark.anyio


async def test_api_consumer_and_scheduler_work_in_one_process(here: Path, services: dict[str, str]) -> None:
    async with running(here, environ=services, script=FAULTY_APP) as app:
        made = await app.api.post("/api/v1/students", json={"name": "Ada"})
        assert made.status_code == 201
        got = await app.api.get(f"/api/v1/students/{made.json()['id']}")
        assert got.json() == made.json()

        async with channel(services["APP_AMQP__EXAMPLE__URL"]) as producer:
            await publish(producer, {"name": "Ben"}, message_id="m-1")

        async def stored() -> bool:
            names = [student["name"] for student in (await app.api.get("/api/v1/students")).json()["items"]]
            return any(name.startswith("Ben") for name in names)

        await app.until(stored)
        await app.logged("tick ended", job="tick", status="finished")
        assert await app.stop() == 0
        assert app.receipt().keys() == {"api", "consume", "schedule", "relay"}


@pytest.mark.parametrize("roles", ["api", "consume", "schedule", "consume,schedule"])
async def test_only_what_was_asked_for_runs_and_ops_answers_in_each(
    here: Path, services: dict[str, str], roles: str
) -> None:
    async with running(here, "--roles", roles, environ=services) as app:
        status = await app.status()
        running_roles = {role["name"] for role in status["roles"]}
        assert running_roles == {"ops", "database", "relay", *roles.split(",")}
        assert (await app.ops.get("/health/live")).status_code == 200
        assert bool(status["consumers"]) == ("consume" in roles)
        assert bool(status["jobs"]) == ("schedule" in roles)
        assert await app.stop() == 0


async def test_all_roles_start_with_what_they_stand_on(here: Path, services: dict[str, str]) -> None:
    async with running(here, environ=services) as app:
        records = {record["role"]: record for record in app.records if record["event"] == "role started"}
        assert records.keys() == {"ops", "database", "relay", "api", "consume", "schedule"}
