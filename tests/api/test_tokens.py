"""Tokens over HTTP: good ones, and each way of not being one. The issuer is a server on a real socket."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from structlog.testing import capture_logs

from clients import open_clients
from schema import settings as sections
from tests.api.issuer import AUDIENCE, ISSUER, Token, ec_jwk, ec_key, forged, public_pem, rsa_jwk, rsa_key
from tests.api.support import Faults, RunningApi, StartApi
from tests.clients.stub import Stub, answer, gibberish, reset, running_stub
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

URL = "/api/v1/students"
JWT = {"issuer": ISSUER, "audience": AUDIENCE, "leeway": "30s", "keys_cooldown": "1m"}
AUTH = {"mode": "jwt", "jwt": JWT}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


@pytest.fixture
async def issuer() -> AsyncIterator[Stub]:
    async with running_stub() as stub:
        stub.plays(answer(200, jwks(rsa_jwk("1"), ec_jwk("2", alg="ES256"))))
        client = sections.Jwks.model_validate({"url": f"{stub.url}/keys", "backoff": "1ms", "timeout": "2s"})
        async with open_clients(sections.Clients(jwks=client)):
            yield stub


@pytest.fixture
async def api(issuer: Stub, start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api(auth=AUTH, clients={"jwks": {"url": issuer.url}}) as api:
        yield api


async def get(api: RunningApi, token: Token | str, path: str = URL) -> httpx.Response:
    return await api.http.get(path, headers={"Authorization": f"Bearer {token}"})


def check_refused(response: httpx.Response, detail: str) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="rolecall", error="invalid_token"'
    assert (response.json()["type"], response.json()["detail"]) == ("/problems/unauthenticated", detail)


@pytest.mark.parametrize(
    "token",
    [
        Token(),
        Token(algorithm="ES256", headers={"kid": "2"}),
        Token(claims={"aud": ["another", AUDIENCE]}),
        Token(claims={"scope": ["students:read"]}),
        Token(claims={"exp": -timedelta(seconds=10)}),
        Token(claims={"nbf": timedelta(seconds=10)}),
        Token(without="iat"),
    ],
    ids=["RSA", "EC", "one of its audiences", "a list of scopes", "slow clock", "fast clock", "no iat"],
)
async def test_a_good_token_is_taken(token: Token, api: RunningApi, issuer: Stub) -> None:
    for _ in range(2):
        assert (await get(api, token)).status_code == 200
    assert [request.target for request in issuer.requests] == ["/keys"]


REFUSED = {
    "expired": (Token(claims={"exp": -timedelta(minutes=1)}), "The token has expired."),
    "too early": (Token(claims={"nbf": timedelta(minutes=5)}), "The token is not valid yet."),
    "audience": (Token(claims={"aud": "another"}), "The token is not meant for this API."),
    "audiences": (Token(claims={"aud": ["another", "rolecal"]}), "The token is not meant for this API."),
    "issuer": (
        Token(claims={"iss": "https://issuer.test.evil"}),
        "The token is not from the issuer that this API trusts.",
    ),
    **{
        f"no {claim}": (Token(without=claim), "The token lacks one of the claims exp, iss, aud, sub.")
        for claim in ("exp", "iss", "aud", "sub")
    },
    "a key of others": (Token(key=rsa_key(1)), "The token is not valid."),
    "a key for another algorithm": (
        Token(algorithm="ES256", headers={"kid": "1"}),
        "The token is signed with a key that its issuer does not have.",
    ),
    "unknown kid": (Token(headers={"kid": "3"}), "The token is signed with a key that its issuer does not have."),
    "no kid": (Token(headers={}), "The token does not name its key (`kid`)."),
    "a critical extension": (Token(headers={"kid": "1", "crit": ["x"], "x": 1}), "This is not a token."),
    "odd times": (Token(claims={"exp": 1e300}), "The token is not valid."),
    "NUL in its subject": (
        Token(claims={"sub": "a\0b"}),
        "The subject of the token (`sub`) is not a printable name.",
    ),
    "a long subject": (
        Token(claims={"sub": "a" * 256}),
        "The subject of the token (`sub`) is not a printable name.",
    ),
    "no subject": (Token(claims={"sub": ""}), "The subject of the token (`sub`) is not a printable name."),
    "an algorithm that is not allowed": (
        Token(algorithm="PS256"),
        "The token is signed with an algorithm that this API does not accept.",
    ),
}


@pytest.mark.parametrize(("token", "detail"), REFUSED.values(), ids=REFUSED)
async def test_each_way_of_not_being_good_is_refused(token: Token, detail: str, api: RunningApi) -> None:
    check_refused(await get(api, token), detail)


async def test_a_token_without_the_scope_is_told_which(api: RunningApi) -> None:
    for claims in ({"scope": "students:write"}, {"scope": {"students:read": True}}, {"scope": [1]}, {"scope": None}):
        response = await get(api, Token(claims=claims))
        assert response.status_code == 403
        assert response.headers["WWW-Authenticate"].endswith('error="insufficient_scope", scope="students:read"')


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, "HS256", ["RS256"], {"a": 1}])
async def test_nobody_chooses_how_little_a_signature_is_worth(algorithm: Any, api: RunningApi, issuer: Stub) -> None:
    for secret in (None, b"", public_pem()):  # no signature; an empty secret; the public key taken for a secret
        response = await get(api, forged({"alg": algorithm, "kid": "1", "typ": "JWT"}, secret))
        check_refused(response, "The token is signed with an algorithm that this API does not accept.")
    assert not issuer.requests


async def test_a_signature_is_of_the_whole_token(api: RunningApi) -> None:
    header, payload, signature = str(Token()).split(".")
    other = str(Token(claims={"sub": "eve", "scope": "students:read students:write"})).split(".")[1]
    flipped = ("B" if signature[10] == "A" else "A").join((signature[:10], signature[11:]))
    for token in (f"{header}.{other}.{signature}", f"{header}.{payload}.{flipped}", f"{header}.{payload}."):
        check_refused(await get(api, token), "The token is not valid.")


async def test_what_a_token_says_about_its_own_key_is_not_believed(api: RunningApi, issuer: Stub) -> None:
    async with running_stub() as evil:
        evil.plays(answer(200, jwks(rsa_jwk("1", 1))))
        own = {"kid": "1", "jku": f"{evil.url}/keys", "x5u": evil.url, "jwk": rsa_jwk("1", 1)}
        check_refused(await get(api, Token(key=rsa_key(1), headers=own)), "The token is not valid.")
        assert not evil.requests
    assert len(issuer.requests) == 1


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "...",
        "a",
        "e30.e30.e30",
        "bm9ib2R5.e30.",
        "W10.e30.e30",
        "!.!.!",
        "e30" * 100,
        "[" * 5000,
        "a.b.c.d.e",
    ],
)
async def test_what_is_no_token_is_refused(token: str, api: RunningApi, issuer: Stub) -> None:
    assert (await get(api, token)).status_code == 401
    assert not issuer.requests


async def test_a_huge_token_is_refused_before_anybody_looks_into_it(
    api: RunningApi, issuer: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(jwt, "get_unverified_header", parsed)
    token = Token(claims={"more": "a" * 8192})
    check_refused(await get(api, token), "The credentials are longer than 8192 characters.")
    assert not issuer.requests


async def test_strangers_cannot_make_the_api_ask_its_issuer(api: RunningApi, issuer: Stub) -> None:
    for number in range(20):
        assert (await get(api, Token(headers={"kid": f"unknown {number}"}))).status_code == 401
    assert (await get(api, Token())).status_code == 200
    assert len(issuer.requests) == 1


@pytest.mark.parametrize("trouble", [answer(500), answer(404), answer(200, b"{}"), reset, gibberish])
async def test_an_issuer_that_is_away_is_no_reason_to_refuse_anybody(
    trouble: Any, api: RunningApi, issuer: Stub
) -> None:
    issuer.plays(trouble)
    response = await get(api, Token())
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert issuer.url not in response.text


async def test_a_token_is_remembered_until_it_ends_and_no_longer(
    issuer: Stub, start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    look = jwt.get_unverified_header

    def counted(token: str) -> Any:
        looked.append(token)
        return look(token)

    monkeypatch.setattr(jwt, "get_unverified_header", counted)
    clock = FakeClock(datetime.now(UTC))
    auth = {"mode": "jwt", "cache": "1h", "jwt": {**JWT, "leeway": "5s"}}
    token = str(Token(claims={"exp": clock.now() + timedelta(seconds=60)}))
    async with start_api(auth=auth, clients={"jwks": {"url": issuer.url}}, clock=clock) as api:
        for elapsed, times in ((0, 1), (30, 1), (60, 1), (63, 1), (65, 2)):
            clock.elapsed = elapsed
            assert (await get(api, token)).status_code == 200  # the library has a clock of its own
            assert len(looked) == times, elapsed


@pytest.mark.usefixtures("faults")
async def test_nothing_of_a_token_is_in_any_log(
    issuer: Stub, start_api: StartApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = [
        str(Token()),
        str(Token(claims={"aud": "another"})),
        str(Token(key=rsa_key(1))),
        str(Token(claims={"more": "a" * 8192})),
        forged({"alg": "none", "kid": "1"}),
        forged({"alg": "RS256", "kid": "unknown"}),
        "no.token.at.all",
    ]
    with capture_logs() as entries:
        async with start_api(auth=AUTH, clients={"jwks": {"url": issuer.url}}) as api:
            for token in tokens:
                for path in (URL, "/api/v1/faults/caller", "/api/v1/faults/abort/500"):
                    await get(api, token, path)
    written = repr(entries) + caplog.text
    assert written.count("caller refused") >= len(tokens)
    for token in tokens:
        for part in token.split("."):
            assert len(part) < 10 or part not in written


async def test_the_caller_is_the_subject(faults: Faults, issuer: Stub, start_api: StartApi) -> None:
    async with start_api(auth=AUTH, clients={"jwks": {"url": issuer.url}}) as api:
        response = await get(api, Token(), "/api/v1/faults/caller")
    assert response.text == faults.bound["caller"] == "sub:ada"


async def test_scopes_may_come_from_another_claim_and_keys_of_other_kinds(issuer: Stub, start_api: StartApi) -> None:
    issuer.plays(answer(200, jwks(rsa_jwk("1"), ec_jwk("2"))))
    own = {**JWT, "scope_claim": "permissions", "algorithms": ["PS256", "ES256"]}
    async with start_api(auth={"mode": "jwt", "jwt": own}, clients={"jwks": {"url": issuer.url}}) as api:
        claims = {"permissions": ["students:read"], "scope": ""}
        assert (await get(api, Token(algorithm="PS256", claims=claims))).status_code == 200
        token = Token(algorithm="ES256", key=ec_key(0), headers={"kid": "2"}, claims=claims)
        assert (await get(api, token)).status_code == 200
        assert (await get(api, Token(claims=claims))).status_code == 401
