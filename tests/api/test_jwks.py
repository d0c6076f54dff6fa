"""The issuer's keys: when they are fetched, for how long they are kept, and what is no key of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from clients.errors import UpstreamUnavailable
from roles.api.jwks import STALE, Keys, KeysUnavailable, usable
from schema.jwks import KeySet
from schema.settings import Jwt
from tests.api.issuer import ec_jwk, rsa_jwk
from tests.fakes import FakeClock, settle

pytestmark = pytest.mark.anyio

SETTINGS = Jwt.model_validate({"keys_lifetime": "10m", "keys_cooldown": "30s", "algorithms": ["ES256"]})
LIFETIME, COOLDOWN = 600, 30


@dataclass
class Issuer:
    published: list[dict[str, Any]] = field(default_factory=lambda: [ec_jwk("1")])
    fetches: int = 0
    away: bool = False
    answers: anyio.Event | None = None
    """None: at once."""

    async def fetch(self) -> KeySet:
        self.fetches += 1
        published, away = self.published, self.away
        if self.answers is not None:
            await self.answers.wait()
        if away:
            raise UpstreamUnavailable("jwks service: away")
        return KeySet(keys=published)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(issuer: Issuer, clock: FakeClock) -> Keys:
    return Keys(SETTINGS, clock, fetch=issuer.fetch)


async def test_keys_are_fetched_when_they_are_first_needed_and_kept(keys: Keys, issuer: Issuer) -> None:
    assert issuer.fetches == 0
    for _ in range(5):
        assert await keys.get("1", "ES256") is not None
    assert issuer.fetches == 1


async def test_a_key_that_is_new_at_the_issuer_is_found(keys: Keys, issuer: Issuer, clock: FakeClock) -> None:
    await keys.get("1", "ES256")
    issuer.published = [ec_jwk("1"), ec_jwk("2", 1)]
    clock.elapsed += COOLDOWN
    assert await keys.get("2", "ES256") is not None
    assert issuer.fetches == 2


async def test_a_key_that_the_issuer_has_given_up_is_given_up(keys: Keys, issuer: Issuer, clock: FakeClock) -> None:
    await keys.get("1", "ES256")
    issuer.published = [ec_jwk("2", 1)]
    clock.elapsed += LIFETIME
    assert await keys.get("1", "ES256") is None
    assert await keys.get("2", "ES256") is not None
    assert issuer.fetches == 2


async def test_unknown_keys_are_asked_for_once_in_so_many_seconds(
    keys: Keys, issuer: Issuer, clock: FakeClock
) -> None:
    for second in range(3 * COOLDOWN):
        assert await keys.get(f"made up {second}", "ES256") is None
        clock.elapsed += 1
    assert issuer.fetches == 3


async def test_all_who_need_the_keys_at_once_wait_for_one_fetch(keys: Keys, issuer: Issuer) -> None:
    issuer.answers = anyio.Event()
    found: list[bool] = []

    async def ask() -> None:
        found.append(await keys.get("1", "ES256") is not None)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
        await settle()
        issuer.answers.set()
    assert found == [True] * 10
    assert issuer.fetches == 1


async def test_nobody_but_the_one_who_fetches_waits_for_fresh_keys(
    keys: Keys, issuer: Issuer, clock: FakeClock
) -> None:
    await keys.get("1", "ES256")
    clock.elapsed += LIFETIME
    issuer.answers = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keys.get, "1", "ES256")
        await settle()
        with anyio.fail_after(5):
            assert await keys.get("1", "ES256") is not None
        issuer.answers.set()
    assert issuer.fetches == 2


async def test_who_fetches_may_be_cancelled(keys: Keys, issuer: Issuer, clock: FakeClock) -> None:
    issuer.answers = anyio.Event()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keys.get, "1", "ES256")
            await settle()
            scope.cancel()
    issuer.answers = None
    clock.elapsed += COOLDOWN
    assert await keys.get("1", "ES256") is not None


async def test_an_issuer_that_is_away_costs_nobody_whose_key_is_known(
    keys: Keys, issuer: Issuer, clock: FakeClock
) -> None:
    await keys.get("1", "ES256")
    issuer.away = True
    clock.elapsed += LIFETIME
    for _ in range(5):
        assert await keys.get("1", "ES256") is not None
    assert issuer.fetches == 2
    with pytest.raises(KeysUnavailable, match="jwks service: away"):
        await keys.get("2", "ES256")
    clock.elapsed += STALE.total_seconds()
    with pytest.raises(KeysUnavailable):
        await keys.get("1", "ES256")
    issuer.away = False
    clock.elapsed += COOLDOWN
    assert await keys.get("1", "ES256") is not None


async def test_an_issuer_that_has_always_been_away_is_asked_again(
    keys: Keys, issuer: Issuer, clock: FakeClock
) -> None:
    issuer.away = True
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await keys.get("1", "ES256")
    assert issuer.fetches == 1
    issuer.away = False
    clock.elapsed += COOLDOWN
    assert await keys.get("1", "ES256") is not None


def test_only_keys_that_signatures_can_be_verified_with_are_used() -> None:
    published = [
        rsa_jwk("rsa"),
        rsa_jwk("rsa for one", alg="PS256"),
        ec_jwk("ec", use="sig"),
        ec_jwk("for encryption", use="enc"),
        ec_jwk("of another curve", crv="P-384"),
        rsa_jwk("broken", n="!"),
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        {"kty": "oct", "kid": "in disguise", "k": "c2VjcmV0", "alg": "RS256"},
        {"kty": "of the future", "kid": "future"},
        {**ec_jwk("1"), "kid": 1},
        {},
    ]
    found = usable(published, ["RS256", "PS256", "ES256"])
    assert set(found) == {("rsa", "RS256"), ("rsa", "PS256"), ("rsa for one", "PS256"), ("ec", "ES256")}
