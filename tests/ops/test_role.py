"""The ops port over real sockets: it always answers, and tells the truth with its reasons."""

from __future__ import annotations

import hmac
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import anyio
import psycopg
import pytest

from roles.board import ConsumerStatus, JobStatus
from roles.ops.readiness import REUSE
from roles.ops.role import OpsRole
from roles.role import State
from roles.tally import Tally
from schema.errors import ConfigurationError
from schema.settings import Address
from schema.status import VERSION, StateName, Status
from tests.ops.support import SINCE, Process, free_port, process, role

pytestmark = pytest.mark.anyio


@pytest.fixture
async def healthy(database_url: str) -> AsyncIterator[Process]:
    async with process(database_url) as it:
        yield it


async def test_a_process_in_which_all_is_well_is_live_and_ready(healthy: Process) -> None:
    live = await healthy.client.get("/health/live")
    ready = await healthy.client.get("/health/ready")

    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert {check["name"] for check in ready.json()["checks"]} == {
        "draining",
        "role:api",
        "role:ops",
        "database",
        "schema",
    }


@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING])
async def test_a_role_that_does_not_run_is_a_reason(healthy: Process, state: State) -> None:
    healthy.roles.append(role("consume", state, "RabbitMQ: connection refused"))
    assert await healthy.reasons() == {"role:consume": f"{state}: RabbitMQ: connection refused"}


async def test_a_role_without_an_error_is_told_of_by_its_state(healthy: Process) -> None:
    healthy.roles.append(role("consume", State.STARTING))
    assert await healthy.reasons() == {"role:consume": "starting"}


async def test_a_consumer_without_its_subscription_is_a_reason(healthy: Process) -> None:
    consumer = ConsumerStatus("example.main", "example", reason="the queue was deleted")
    healthy.resources.board.consumers["example.main"] = consumer
    assert await healthy.reasons() == {"consumer:example.main": "the queue was deleted"}

    consumer.reason = None
    assert await healthy.reasons() == {"consumer:example.main": "not subscribed on broker example"}

    consumer.subscribed = True
    assert await healthy.reasons() == {}


async def test_a_process_that_drains_is_not_ready_but_live(healthy: Process) -> None:
    healthy.draining = True
    assert await healthy.reasons() == {"draining": "the process is shutting down"}
    assert (await healthy.client.get("/health/live")).status_code == 200


async def test_a_schema_that_is_behind_is_a_reason(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '0001'")
    async with process(database_url) as it:
        reasons = await it.reasons()
    assert list(reasons) == ["schema"]
    assert "0001" in reasons["schema"]


async def test_a_database_that_is_away_is_a_reason_within_the_probes_time() -> None:
    async with process(f"postgresql://nobody@127.0.0.1:{free_port()}/none", probe_timeout="300ms") as it:
        began = time.monotonic()
        reasons = await it.reasons()
        assert time.monotonic() - began < 20
        assert (await it.client.get("/health/live")).status_code == 200
        assert (await it.client.get("/status")).json()["pool"]["available"] == 0
    assert list(reasons) == ["database"]
    assert "ops.probe_timeout = 300ms" in reasons["database"]


async def test_a_pool_that_is_closed_is_a_reason(healthy: Process) -> None:
    await healthy.resources.pool.close()
    assert list(await healthy.reasons()) == ["database"]


async def test_a_database_that_accepts_and_says_nothing_does_not_hang_any_probe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/none"
        async with process(url, probe_timeout="300ms") as it:
            began = time.monotonic()
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(it.reasons)
            assert time.monotonic() - began < 20


async def test_a_query_that_gets_no_answer_any_more_does_not_hang_the_probe(healthy: Process) -> None:
    lock = await healthy.resources.pool.getconn()
    await lock.execute("BEGIN")
    await lock.execute("LOCK TABLE alembic_version")
    began = time.monotonic()
    reasons = await healthy.reasons()
    assert time.monotonic() - began < 20
    assert list(reasons) == ["database"]
    await lock.execute("ROLLBACK")
    await healthy.resources.pool.putconn(lock)

    healthy.clock.elapsed += REUSE
    assert await healthy.reasons() == {}


async def test_many_probes_at_once_cost_the_database_one_question(healthy: Process) -> None:
    await healthy.reasons()
    healthy.clock.elapsed += REUSE
    before = healthy.resources.pool.get_stats()["requests_num"]
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(healthy.reasons)
    assert healthy.resources.pool.get_stats()["requests_num"] == before + 1


async def test_status_tells_all_that_the_roles_report(healthy: Process) -> None:
    healthy.roles[:] = [role("consume", State.BACKOFF, "why", taken=9, finished=4, failed=2, given_back=1)]
    healthy.resources.board.consumers["q"] = ConsumerStatus(
        "q", "example", subscribed=True, since=SINCE, tally=Tally(taken=1), retried=2, parked=3, unidentified=4
    )
    healthy.resources.board.jobs["report"] = JobStatus("report", "0 * * * * (UTC)", next_at=SINCE, last_status="done")

    body = (await healthy.client.get("/status")).json()

    (consume,) = body["roles"]
    assert consume == {
        "name": "consume",
        "state": "backoff",
        "since": "2026-01-01T00:00:00Z",
        "restarts": 1,
        "failure": "unavailable",
        "last_error": "why",
        "counts": {"taken": 9, "in_flight": 2, "finished": 4, "failed": 2, "given_back": 1},
    }
    (consumer,) = body["consumers"]
    assert (consumer["queue"], consumer["broker"], consumer["subscribed"]) == ("q", "example", True)
    assert (consumer["retried"], consumer["parked"], consumer["unidentified"]) == (2, 3, 4)
    assert consumer["counts"]["in_flight"] == 1
    (job,) = body["jobs"]
    assert (job["name"], job["next_at"], job["last_status"]) == ("report", "2026-01-01T00:00:00Z", "done")
    assert (body["version"], body["pid"], body["host"]) == (VERSION, os.getpid(), socket.gethostname())
    assert body["pool"]["max_size"] == 2
    assert body["uptime"] >= 0
    assert Status.model_validate(body).draining is False


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/status", "/nowhere"])
async def test_head_says_what_get_would_say_without_the_body(healthy: Process, path: str) -> None:
    head, get = await healthy.client.head(path), await healthy.client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert abs(int(head.headers["content-length"]) - len(get.content)) < 10


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("POST", "/status", 405)])
async def test_what_does_not_exist_is_a_problem(healthy: Process, method: str, path: str, status: int) -> None:
    answer = await healthy.client.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert path in answer.json()["detail"]


async def test_with_a_token_all_but_health_needs_it(database_url: str) -> None:
    async with process(database_url, token="of-the-operator") as it:
        for sent in ("", "Bearer of-the-operato", "Bearer of-the-operator2", "Bearer x", "Basic of-the-operator"):
            refused = await it.client.get("/status", headers=[(b"Authorization", sent.encode())] if sent else {})
            assert refused.status_code == refused.json()["status"] == 401
            assert refused.headers["www-authenticate"] == 'Bearer realm="rolecall ops"'
            assert "of-the-operator" not in refused.text
        for path in ("/health/live", "/health/ready"):
            assert (await it.client.get(path)).status_code == 200
        for sent in ("Bearer of-the-operator", "bearer of-the-operator"):
            assert (await it.client.get("/status", headers={"Authorization": sent})).status_code == 200


async def test_without_a_token_what_others_can_reach_answers_health_alone(database_url: str) -> None:
    async with process(database_url, bind=Address(f"0.0.0.0:{free_port()}")) as it:
        it.client.base_url = it.client.base_url.copy_with(host="127.0.0.1")
        for sent in ({}, {"Authorization": "Bearer x"}):
            refused = await it.client.get("/status", headers=[(k.encode(), v.encode()) for k, v in sent.items()])
            assert refused.status_code == 401
            assert "set ops.token (APP_OPS__TOKEN)" in refused.json()["detail"]
        assert (await it.client.get("/health/ready")).status_code == 200


async def test_the_token_is_compared_in_constant_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def noting(sent: bytes, token: bytes) -> bool:
        compared.append(sent)
        return hmac.compare_digest(sent, token)

    monkeypatch.setattr("roles.ops.app.compare_digest", noting)
    async with process(database_url, token="of-the-operator") as it:
        await it.client.get("/status", headers={"Authorization": "Bearer wrong"})
    assert compared == [b"wrong"]


async def test_a_taken_port_is_an_error_that_names_the_setting(healthy: Process) -> None:
    again = OpsRole(healthy.resources, snapshot=tuple, draining=lambda: False)
    with pytest.raises(ConfigurationError) as raised:
        await again.run(task_status=anyio.TASK_STATUS_IGNORED, stop=anyio.Event())
    assert "ops.bind" in str(raised.value)
    assert "APP_OPS__BIND" in str(raised.value)


def test_the_version_is_that_of_the_project() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{VERSION}"' in project


def test_the_states_are_those_of_the_supervisor() -> None:
    assert get_args(StateName) == tuple(state.value for state in State)
