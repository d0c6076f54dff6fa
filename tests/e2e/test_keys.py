"""From the command line to the API and back: a key is made, used, revoked; and no secret is in any log."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest

from tests.e2e.support import running
from tests.e2e.test_command_line import run

pytestmark = pytest.mark.anyio

OPS_TOKEN = "secret-of-ops"


async def test_a_key_is_made_used_and_revoked_and_nothing_secret_is_logged(
    here: Path, services: dict[str, str]
) -> None:
    environ = {
        **services,
        "APP_AUTH__MODE": "api_key",
        "APP_AUTH__CACHE": "0s",
        "APP_OPS__TOKEN": OPS_TOKEN,
        "APP_LOG__LEVEL": "debug",
    }

    def make(*options: str) -> dict[str, str]:
        create = ("keys", "create", "Ada", "--scope", "students:read", "--json")
        made: dict[str, str] = json.loads(run(here, *create, *options, environ=environ).stdout)
        return made

    made, old = make(), make("--expires", "1d")
    with psycopg.connect(services["APP_DATABASE__URL"], autocommit=True) as admin:
        admin.execute("UPDATE api_key SET expires_at = now() - interval '1 s' WHERE id = %s", (old["id"],))
    wrong = made["key"][:-4] + "AAAA"
    async with running(here, "--roles", "api", environ=environ, wait=False) as app:
        app.ops.headers["Authorization"] = f"Bearer {OPS_TOKEN}"
        await app.connect()
        await app.logged("ready", within=60)
        url = "/api/v1/students"

        async def status(credentials: str, path: str = url) -> int:
            return (await app.api.get(path, headers={"Authorization": f"Bearer {credentials}"})).status_code

        assert await status(made["key"]) == 200
        assert await status(wrong) == 401
        assert await status(old["key"]) == 401
        await app.logged("caller refused", reason="The API key has expired.")
        assert await status(made["key"], f"/api/v1/timezone?area=Europe&city={made['key']}") == 403
        assert (await app.ops.get("/status", headers={"Authorization": f"Bearer {wrong}"})).status_code == 401
        assert (await app.ops.get("/health/ready", headers={"Authorization": ""})).status_code == 200
        assert run(here, "keys", "revoke", made["id"], "--yes", environ=environ).returncode == 0
        assert await status(made["key"]) == 401
        request = await app.logged("request", status=200)
        assert request["caller"] == f"key:{made['id']}"
        await app.logged("caller refused", reason="The API key was revoked.")
        with psycopg.connect(services["APP_DATABASE__URL"], autocommit=True) as admin:
            admin.execute("ALTER TABLE api_key RENAME COLUMN digest TO digest_of_it")
        assert await status(made["key"]) == 500  # and a traceback, with whatever is in it
        await app.logged("request failed")
        assert await app.stop() == 0
    about_requests = [record for record in app.records if record["logger"] in ("roles.api.errors", "roles.web.gate")]
    assert {"request", "request failed", "caller refused"} <= {record["event"] for record in about_requests}
    assert all(re.fullmatch("[0-9a-f]{32}", record["request_id"]) for record in about_requests)
    written = app.written()
    for secret in (*(key.split("_", 2)[2] for key in (made["key"], wrong, old["key"])), OPS_TOKEN, "Bearer rk_"):
        assert secret not in written
    shown = run(here, "config", environ=environ).stdout
    assert 'ops.token = "***"' in shown
    assert OPS_TOKEN not in shown


def test_check_says_who_may_call(here: Path, services: dict[str, str]) -> None:
    checked = run(here, "check", environ={**services, "APP_API__BIND": "0.0.0.0:8090"})
    assert checked.returncode == 2
    [bad] = [line for line in checked.stdout.splitlines() if line.startswith("bad")]
    assert bad.startswith("bad  callers: ")
    assert "APP_AUTH__ALLOW_ANONYMOUS" in bad


def test_the_process_refuses_to_serve_the_world_by_mistake(here: Path, services: dict[str, str]) -> None:
    environ = {**services, "APP_API__BIND": "0.0.0.0:0", "APP_OPS__BIND": "127.0.0.1:0"}
    refused = run(here, "--roles", "api", environ=environ)
    assert refused.returncode == 2
    assert 'error: api.bind = "0.0.0.0:0" (APP_API__BIND)' in refused.stderr
    assert "Traceback" not in refused.stderr
