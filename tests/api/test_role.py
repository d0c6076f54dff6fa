"""The role: its contract with the supervisor."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from quart import Blueprint
from structlog.testing import capture_logs

from db.pool import Pool
from roles.api.role import ApiRole
from roles.api.routes import ROUTES
from roles.resources import Resources
from roles.web.listener import address_of, listen
from schema.errors import ConfigurationError
from schema.settings import Address, Settings
from tests.api.support import BOTH, Faults, RawReply, StartApi, read_all

pytestmark = [pytest.mark.anyio, BOTH]


async def test_a_taken_port_can_never_work_and_says_what_would(pool: Pool) -> None:
    with listen(Address("127.0.0.1:0"), setting="api.bind") as other:
        settings = Settings.model_validate({"api": {"bind": str(address_of(other))}})
        role = ApiRole(Resources(settings=settings, pool=pool, amqp_urls={}))
        with pytest.raises(
            ConfigurationError, match=r"api\.bind = .*the port is in use by process \d+ .*choose another"
        ):
            await role.run(task_status=anyio.TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_it_says_where_it_listens(start_api: StartApi) -> None:
    with capture_logs() as logs:
        async with start_api() as api:
            pass
    [entry] = [entry for entry in logs if entry["event"] == "api listening"]
    assert entry["url"] == f"http://{api.host}:{api.port}"


async def test_a_restart_is_a_new_role_on_the_same_port(start_api: StartApi) -> None:
    async with start_api() as first:
        await first.http.get("/api/v1/students")
    async with start_api(api={"bind": f"{first.host}:{first.port}"}) as second:
        assert (await second.http.get("/api/v1/students")).status_code == 200


async def test_a_request_in_flight_outlives_the_request_to_stop(faults: Faults, start_api: StartApi) -> None:
    async with start_api(api={"request_timeout": "500ms"}) as api:
        stream = await api.connect()
        await stream.send(b"GET /api/v1/faults/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await faults.entered.wait()
        api.stop.set()
    async with stream:
        reply = await stream.receive()
    assert reply.startswith(b"HTTP/1.1 503")
    assert b"\r\nconnection: close\r\n" in reply
    assert (api.tally.taken, api.tally.finished) == (1, 1)


async def test_what_routes_hook_into_its_start_and_end_is_run(
    start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    hooked = Blueprint("hooked", __name__, url_prefix="/hooked")

    @hooked.before_app_serving
    async def before() -> None:
        ran.append("before")

    @hooked.after_app_serving
    async def after() -> None:
        ran.append("after")

    monkeypatch.setattr("roles.api.app.ROUTES", (*ROUTES, hooked))
    async with start_api():
        assert ran == ["before"]
    assert ran == ["before", "after"]


async def test_a_request_that_is_cut_off_is_told_so(faults: Faults, pool: Pool) -> None:
    resources = Resources(settings=Settings.model_validate({"api": {"bind": "127.0.0.1:0"}}), pool=pool, amqp_urls={})
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(ApiRole(resources).run, stop=anyio.Event()))
        address = resources.board.addresses["api"]
        stream = await anyio.connect_tcp(address.host, address.port)
        await stream.send(b"GET /api/v1/faults/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await faults.entered.wait()
        tasks.cancel_scope.cancel()
    async with stream:
        reply = RawReply.parse(await read_all(stream))
    assert reply.status == 503
    assert reply.problem()["type"] == "/problems/unavailable"
    assert faults.cancelled.is_set()


async def test_a_role_that_is_cancelled_ends_at_once(pool: Pool) -> None:
    settings = Settings.model_validate({"api": {"bind": "127.0.0.1:0"}})
    role = ApiRole(Resources(settings=settings, pool=pool, amqp_urls={}))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(role.run, stop=anyio.Event()))
            tasks.cancel_scope.cancel()
