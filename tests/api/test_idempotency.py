"""`Idempotency-Key`: one effect and one answer, however often a request is sent, and whatever breaks in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import psycopg
import pytest
from quart import Blueprint, Response

from db import api_keys
from db.cron_runs import RunStatus
from db.pool import Pool, connection, unit_of_work
from roles.api.access import public
from roles.api.replies import reply
from roles.api.routes import ROUTES
from roles.resources import Resources
from roles.schedule.jobs import pruning
from roles.schedule.manual import run_by_hand
from schema.settings import Settings, current_settings
from tests.api.support import BOTH, RunningApi, StartApi

pytestmark = [pytest.mark.anyio, BOTH]

URL = "/api/v1/students"
TRIES = "/api/v1/tries"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


async def post(api: RunningApi, name: str = "Ada", **headers: str) -> httpx.Response:
    return await api.http.post(URL, json={"name": name}, headers={**KEY, **headers})


async def count(table: str = "student") -> int:
    async with connection() as conn:
        row = await (await conn.execute(f"SELECT count(*) FROM {table}")).fetchone()
    assert row is not None
    return int(row[0])


async def test_sent_again_a_request_has_one_effect_and_the_same_answer(api: RunningApi) -> None:
    first = await post(api)
    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first.headers
    for _ in range(2):
        again = await post(api)
        assert (again.status_code, again.content) == (201, first.content)
        for name in ("Location", "ETag", "Content-Type"):
            assert again.headers[name] == first.headers[name]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert await count() == 1
    assert await count("outbox") <= 1


async def test_without_a_key_each_request_is_one_of_its_own(api: RunningApi) -> None:
    for _ in range(2):
        await api.http.post(URL, json={"name": "Ada"})
    await post(api, **{"Idempotency-Key": "another"})
    assert await count() == 3
    assert await count("idempotency_key") == 1


async def test_a_key_that_belongs_to_another_body_or_path_is_refused(api: RunningApi) -> None:
    await post(api)
    for refused in (
        await post(api, "Ben"),
        await api.http.post(f"{URL}?x=1", json={"name": "Ada"}, headers=KEY),
        await api.http.post(URL, content=b'{"name":  "Ada"}', headers={**KEY, "Content-Type": "application/json"}),
    ):
        assert refused.status_code == 422
        assert refused.json()["type"] == "/problems/idempotency-key-reused"
    assert await count() == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("Idempotency-Key", "a" * 256)],
        [("Idempotency-Key", '"a')],
        [("Idempotency-Key", '""')],
        [("Idempotency-Key", "a b")],
        [("Idempotency-Key", "\u00e9".encode("latin1"))],
        [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
    ],
)
async def test_what_is_no_key_is_refused(headers: Any, api: RunningApi) -> None:
    refused = await api.http.post(URL, json={"name": "Ada"}, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["type"] == "/problems/malformed-request"
    assert await count() == 0


async def test_a_key_may_be_quoted_as_the_draft_has_it(api: RunningApi) -> None:
    await post(api, **{"Idempotency-Key": "a" * 255})
    assert (await post(api, **{"Idempotency-Key": '"' + "a" * 255 + '"'})).headers["Idempotency-Replayed"] == "true"


async def test_an_answer_that_had_no_effect_is_not_kept(api: RunningApi) -> None:
    assert (await post(api, "")).status_code == 422
    assert await count("idempotency_key") == 0
    assert (await post(api)).status_code == 201


async def test_each_caller_has_keys_of_its_own(start_api: StartApi) -> None:
    async with connection() as conn:
        keys = [(await api_keys.create(conn, name, scopes=["students:write"]))[1] for name in ("Ada", "Ben")]
    async with start_api(auth={"mode": "api_key"}) as api:
        for key in keys:
            made = await post(api, Authorization=f"Bearer {key}")
            assert (made.status_code, made.headers.get("Idempotency-Replayed")) == (201, None)
        assert (await post(api, Authorization=f"Bearer {keys[0]}")).headers["Idempotency-Replayed"] == "true"
        assert (await post(api)).status_code == 401
    assert await count() == 2


class Tries:
    """A route that does several things, and fails where it is told to."""

    def __init__(self) -> None:
        self.fails: list[str] = []
        self.calls = 0
        self.entered = anyio.Event()
        self.goes_on = anyio.Event()
        self.goes_on.set()

    def blueprint(self) -> Blueprint:
        blueprint = Blueprint("tries", __name__, url_prefix="/tries")

        @blueprint.post("")
        @public
        async def several() -> Response:
            self.calls += 1
            outcome = []
            for name in ("first", "second", "third"):
                try:
                    async with unit_of_work() as work:
                        await work.connection.execute("INSERT INTO student (name) VALUES (%s)", [name])
                        if name in self.fails:
                            await work.connection.execute("SELECT 1 / 0")
                except psycopg.errors.DivisionByZero:
                    outcome.append(f"{name} failed")
            async with connection() as conn:
                row = await (await conn.execute("SELECT count(*) FROM student")).fetchone()
            assert row is not None
            self.entered.set()
            await self.goes_on.wait()
            if "all" in self.fails:
                raise RuntimeError
            return Response(f"{row[0]} stored; {', '.join(outcome)}", status=207)

        @blueprint.post("/tasks")
        @public
        async def in_tasks() -> Response:
            async def add(name: str) -> None:
                async with unit_of_work() as work:
                    await work.connection.execute("INSERT INTO student (name) VALUES (%s)", [name])

            async with anyio.create_task_group() as tasks:
                for name in ("a", "b"):
                    tasks.start_soon(add, name)
            return reply(status=204)

        return blueprint


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    tries = Tries()
    monkeypatch.setattr("roles.api.app.ROUTES", (*ROUTES, tries.blueprint()))
    return tries


@pytest.fixture
async def trying(tries: Tries, start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api() as api:
        yield api


@pytest.mark.parametrize("failing", [[], ["first"], ["second"], ["third"], ["first", "third"]])
async def test_each_unit_of_work_of_a_route_is_whole_or_not_at_all(
    failing: list[str], tries: Tries, trying: RunningApi
) -> None:
    tries.fails = failing
    first = await trying.http.post(TRIES, headers=KEY)
    assert first.status_code == 207
    assert first.text == f"{3 - len(failing)} stored; {', '.join(f'{name} failed' for name in failing)}"
    assert await count() == 3 - len(failing)
    again = await trying.http.post(TRIES, headers=KEY)
    assert (again.status_code, again.text) == (207, first.text)
    assert (await count(), tries.calls) == (3 - len(failing), 1)


async def test_a_bug_after_the_effect_takes_the_effect_with_it_and_the_next_try_is_the_first(
    tries: Tries, trying: RunningApi
) -> None:
    tries.fails = ["all"]
    assert (await trying.http.post(TRIES, headers=KEY)).status_code == 500
    assert (await count(), await count("idempotency_key")) == (0, 0)
    tries.fails = []
    made = await trying.http.post(TRIES, headers=KEY)
    assert (made.status_code, "Idempotency-Replayed" in made.headers) == (207, False)
    assert await count() == 3


async def test_a_twin_is_told_to_come_back_and_then_finds_the_answer(tries: Tries, trying: RunningApi) -> None:
    tries.goes_on = anyio.Event()
    answers: list[httpx.Response] = []

    async def send() -> None:
        answers.append(await trying.http.post(TRIES, headers=KEY))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await tries.entered.wait()
        twin = await trying.http.post(TRIES, headers=KEY)
        assert twin.status_code == 409
        assert twin.json()["type"] == "/problems/in-progress"
        assert twin.headers["Retry-After"] == "1"
        other = await trying.http.post(URL, json={"name": "Ben"}, headers={"Idempotency-Key": "of-another"})
        assert other.status_code == 201
        tries.goes_on.set()
    [first] = answers
    assert (await trying.http.post(TRIES, headers=KEY)).text == first.text
    assert tries.calls == 1


async def test_of_many_at_once_one_has_the_effect(api: RunningApi) -> None:
    statuses: list[int] = []

    async def send() -> None:
        statuses.append((await post(api)).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(send)
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    assert await count() == 1


async def test_a_client_that_goes_away_leaves_nothing_behind(tries: Tries, trying: RunningApi) -> None:
    tries.goes_on = anyio.Event()
    async with await trying.connect() as stream:
        await stream.send(
            f"POST {TRIES} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nIdempotency-Key: x\r\n\r\n".encode()
        )
        await tries.entered.wait()
    tries.goes_on.set()
    with anyio.fail_after(30):
        while (answer := await trying.http.post(TRIES, headers={"Idempotency-Key": "x"})).status_code == 409:
            pass
    assert (answer.status_code, await count()) == (207, 3)


async def test_other_tasks_of_a_route_are_not_a_part_of_it(trying: RunningApi) -> None:
    for _ in range(2):
        assert (await trying.http.post(f"{TRIES}/tasks", headers=KEY)).status_code == 204
    assert await count() == 2


async def test_old_answers_are_forgotten_a_few_at_a_time(
    api: RunningApi, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BODIES_AT_MOST", 2)
    for number in range(3):
        await post(api, **{"Idempotency-Key": f"old {number}".replace(" ", "-")})
    async with connection() as conn:
        await conn.execute("UPDATE idempotency_key SET created_at = created_at - interval '1 hour'")
    await post(api, **{"Idempotency-Key": "young"})
    token = current_settings.set(Settings.model_validate({"api": {"idempotency_retention": "59m"}}))
    try:
        resources = Resources(settings=Settings(), pool=pool, amqp_urls={})
        name = "prune_idempotency_keys"
        run = await run_by_hand([pruning.prune_idempotency_keys], name, user="test", resources=resources)
    finally:
        current_settings.reset(token)
    assert run is not None
    assert (run.status, run.progress) == (RunStatus.FINISHED, "3 answers forgotten")
    assert await count("idempotency_key") == 1
    assert (await post(api, **{"Idempotency-Key": "young"})).headers["Idempotency-Replayed"] == "true"
