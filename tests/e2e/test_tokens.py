"""Tokens to the real process, of an issuer on a real socket: who is let in, while its keys, and itself, come and go.

And nothing of any token is in any log.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
import pytest

from schema.problems import FORBIDDEN, UNAUTHENTICATED
from tests.api.issuer import AUDIENCE, ISSUER, Token, ec_jwk, forged, public_pem, rsa_jwk, rsa_key
from tests.clients.stub import Step, Stub, answer, reset, running_stub
from tests.e2e.support import App, running

pytestmark = pytest.mark.anyio

URL = "/api/v1/students"
COOLDOWN = 1.0
"""Seconds between two questions to the issuer."""
DATABASE_PASSWORD, BROKER_PASSWORD, CURSOR_KEY = "secret-of-database", "secret-of-broker", "secret-of-cursors" * 2


def publishes(*keys: dict[str, Any]) -> Step:
    return answer(200, json.dumps({"keys": keys}).encode())


class Client:
    """Asks the application, and remembers all that it has shown to it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.shown: list[str] = []

    async def ask(self, token: Token | str) -> httpx.Response:
        self.shown.append(str(token))
        return await self._app.api.get(URL, headers={"Authorization": f"Bearer {self.shown[-1]}"})

    async def ask_until(self, status: int, token: Token | str) -> None:
        """Asks until that is the answer: the issuer is not asked at each request."""

        async def answered() -> bool:
            return (await self.ask(token)).status_code == status

        await self._app.until(answered)


def check_refused(response: httpx.Response, status: int, challenge: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["WWW-Authenticate"] == f'Bearer realm="rolecall", {challenge}'
    assert response.json()["type"] == (FORBIDDEN if status == 403 else UNAUTHENTICATED).type


async def check_that_a_flood_of_made_up_keys_spares_the_issuer(client: Client, issuer: Stub) -> None:
    began, asked = anyio.current_time(), len(issuer.requests)

    async def send(number: int) -> None:
        check_refused(await client.ask(Token(headers={"kid": f"made up {number}"})), 401, 'error="invalid_token"')

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(send, number)
    assert len(issuer.requests) - asked <= 1 + (anyio.current_time() - began) / COOLDOWN


async def test_tokens_are_worth_what_their_issuer_says_and_are_in_no_log(here: Path, database_url: str) -> None:
    first, second = Token(), Token(algorithm="ES256", headers={"kid": "2"})
    refused: dict[str, Token | str] = {
        "expired": Token(claims={"exp": -timedelta(minutes=5)}),
        "not valid yet": Token(claims={"nbf": timedelta(minutes=5)}),
        "of another audience": Token(claims={"aud": "another"}),
        "of another issuer": Token(claims={"iss": "https://another.test"}),
        "signed by others": Token(key=rsa_key(1)),
        "not signed": forged({"alg": "none", "kid": "1"}),
        "signed with the public key": forged({"alg": "HS256", "kid": "1"}, public_pem()),
        "of a key that there is not": second,
        "huge": Token(claims={"more": "a" * 8192}),
        "none": "no.token.at-all",
    }
    without = Token(claims={"scope": "students:write timezone:read"})
    async with running_stub() as issuer:
        issuer.plays(reset)
        environ = {
            "APP_DATABASE__URL": database_url.replace("postgres@", f"postgres:{DATABASE_PASSWORD}@"),
            "APP_AMQP__EXAMPLE__URL": f"amqp://guest:{BROKER_PASSWORD}@127.0.0.1:1/",
            "APP_API__CURSOR_KEY": CURSOR_KEY,
            "APP_AUTH__MODE": "jwt",
            "APP_AUTH__CACHE": "0s",
            "APP_AUTH__JWT__ISSUER": ISSUER,
            "APP_AUTH__JWT__AUDIENCE": AUDIENCE,
            "APP_AUTH__JWT__KEYS_COOLDOWN": f"{COOLDOWN:g}s",
            "APP_CLIENTS__JWKS__URL": f"{issuer.url}/keys",
            "APP_CLIENTS__JWKS__ATTEMPTS": "1",
            "APP_CLIENTS__JWKS__CIRCUIT_REST": "100ms",
            "APP_LOG__LEVEL": "debug",
        }
        assert DATABASE_PASSWORD in environ["APP_DATABASE__URL"]
        async with running(here, "--roles", "api", environ=environ) as app:
            client = Client(app)
            away = await client.ask(first)
            assert (away.status_code, away.headers["Retry-After"]) == (503, "1")
            assert issuer.url not in away.text

            issuer.plays(publishes(rsa_jwk("1")))
            await client.ask_until(200, first)
            for token in refused.values():
                check_refused(await client.ask(token), 401, 'error="invalid_token"')
            check_refused(await client.ask(without), 403, 'error="insufficient_scope", scope="students:read"')
            assert "students:read" in (await client.ask(without)).json()["detail"]
            assert (await app.api.get(URL)).headers["WWW-Authenticate"] == 'Bearer realm="rolecall"'
            await check_that_a_flood_of_made_up_keys_spares_the_issuer(client, issuer)

            issuer.plays(publishes(ec_jwk("2")))  # and the first one is no longer used
            await client.ask_until(200, second)
            check_refused(await client.ask(first), 401, 'error="invalid_token"')

            issuer.plays(reset)
            await client.ask_until(503, first)  # which may have come back; nobody can say
            assert (await client.ask(second)).status_code == 200

            with psycopg.connect(database_url, autocommit=True) as admin:
                admin.execute("ALTER TABLE student RENAME TO student_of_old")
            assert (await client.ask(second)).status_code == 500  # and a traceback, with whatever is in it
            await app.logged("request failed")
            assert await app.stop() == 0

    written = app.written()
    assert {record.get("caller") for record in app.records} >= {"sub:ada"}
    for token in client.shown:
        for part in token.split("."):
            assert len(part) < 10 or part not in written
    for secret in (DATABASE_PASSWORD, BROKER_PASSWORD, CURSOR_KEY):
        assert secret not in written
