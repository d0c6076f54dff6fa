"""The running process is what its document says: schemathesis asks it everything that the document allows, and much
that it forbids.

`make fuzz SEED=7 EXAMPLES=500` asks more, and other things.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest

from db import api_keys
from db.pooled_connection import PooledConnection
from roles.api.access import known_scopes
from roles.api.app import create_app
from schema.settings import Settings
from tests.clients.stub import MOSCOW, Stream, answer, running_stub
from tests.e2e.support import ROOT, running
from tests.web.support import ServerName

CONFIG = Path(__file__).parent / "schemathesis.toml"
SEED = os.environ.get("SEED")
EXAMPLES = int(os.environ.get("EXAMPLES") or 10)
SCOPES = sorted(known_scopes(create_app(Settings())))
PATIENT = {"APP_DATABASE__POOL_TIMEOUT": "20s", "APP_CLIENTS__TIMEZONE__TIMEOUT": "20s"}
"""A busy machine is no reason for a 503 or a 504, which would be failures here."""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300 + 2 * EXAMPLES)]

Json = dict[str, Any]


async def key_for(database_url: str, *scopes: str) -> str:
    """A new API key."""
    async with await PooledConnection.connect(database_url, autocommit=True) as conn:
        _, key = await api_keys.create(conn, "Somebody", scopes=scopes)
    return key


async def ask(url: str, directory: Path, *options: str, key: str) -> tuple[Json, str]:
    """Runs schemathesis against the document at `url`; returns its report, and what it printed."""
    report = directory / "report.json"
    chance = ["--seed", SEED, "--generation-database", "none"] if SEED else ["--generation-deterministic"]
    asked = await anyio.run_process(
        [
            *(Path(sys.executable).with_name("st"), "--config-file", CONFIG, "run", f"{url}/openapi.json"),
            *("--no-color", "--continue-on-failure", "--report-json-path", report),
            *(*chance, *options),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "*", "API_KEY": key},
        stderr=subprocess.STDOUT,
        check=False,
    )
    printed = asked.stdout.decode()
    assert report.exists(), printed
    found: Json = json.loads(report.read_text())
    report.unlink()
    return found, printed


@pytest.mark.parametrize("server", get_args(ServerName))
async def test_what_the_process_answers_is_in_its_document(server: str, here: Path, database_url: str) -> None:
    async with running_stub() as timezones:

        async def one_or_none(stream: Stream) -> None:
            known = "0" not in timezones.requests[-1].target
            await (answer(200, MOSCOW, content_type="application/json") if known else answer(404))(stream)

        timezones.plays(one_or_none)
        environ = {
            **PATIENT,
            "APP_DATABASE__URL": database_url,
            "APP_AMQP__EXAMPLE__URL": "amqp://127.0.0.1:1/",  # nobody is there, and it is nobody's business here
            "APP_AUTH__MODE": "api_key",
            "APP_API__SERVER": server,
            "APP_API__DOCS": "true",
            "APP_API__RATE_LIMIT": "",
            "APP_CLIENTS__TIMEZONE__URL": timezones.url,
        }
        able, less_able = await key_for(database_url, *SCOPES), await key_for(database_url, "timezone:read")
        async with running(here, "--roles", "api", environ=environ) as app:
            url = str(app.api.base_url)
            report, printed = await ask(url, here, "--max-examples", str(EXAMPLES), key=able)
            refused, printed_of_refused = await ask(url, here, "--phases", "examples", key=less_able)
            assert await app.stop() == 0

    for found, text in ((report, printed), (refused, printed_of_refused)):
        assert (found["failures"], found["errors"], found["exit_code"]) == ([], [], 0), text
        assert found["operations"]["tested"] == found["operations"]["total"] > 0, text
        assert {name: places for name, places in found["warnings"].items() if places} == {}, text
        assert found["complete"], text
    assert {phase: result["status"] for phase, result in report["phases"].items()} == dict.fromkeys(
        ("examples", "coverage", "fuzzing", "stateful"), "success"
    ), printed
    for operation, rates in report["valid_rates"].items():  # else it would have been turned away at the door
        assert all(rates[phase]["accepted"] for phase in ("examples", "coverage", "fuzzing")), operation
    accepted = {place for place, rates in refused["valid_rates"].items() if rates["examples"]["accepted"]}
    assert accepted == {place for place in report["valid_rates"] if "timezone" in place}, printed_of_refused
    bugs = [record for record in app.records if record["level"] in ("error", "critical")]
    assert not bugs, app.text()
