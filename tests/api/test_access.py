"""Who may call what: every route says it, what it says is enforced, and nobody serves the world by mistake."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from quart import Blueprint, Response

from db.pool import Pool
from roles.api.access import access_of, access_rules, known_scopes, public, requires
from roles.api.app import create_app
from roles.api.replies import reply
from roles.api.role import ApiRole
from roles.api.routes import ROUTES
from roles.resources import Resources
from schema.errors import ConfigurationError
from schema.settings import Settings
from tests.api.support import StartApi

pytestmark = pytest.mark.anyio


def test_every_route_says_who_may_call_it() -> None:
    app = create_app(Settings(debug=True))
    for rule in app.url_map.iter_rules():
        access = access_of(app.view_functions[rule.endpoint])
        assert access is not None, rule
        assert access.scopes != frozenset(), f"{rule}: every known caller may"
        assert (access.scopes is None) == (not rule.rule.startswith("/api/")), rule
    assert app.access == access_rules(app)
    assert known_scopes(app) == {"students:read", "students:write", "timezone:read"}


def test_what_changes_something_needs_another_scope_than_what_reads() -> None:
    app = create_app(Settings())
    for rule in app.url_map.iter_rules():
        access = app.access[rule.endpoint]
        if access.scopes is not None:
            reads = "GET" in (rule.methods or ())
            assert all(scope.endswith(":read" if reads else ":write") for scope in access.scopes), rule


def silent_routes() -> Blueprint:
    blueprint = Blueprint("silent", __name__, url_prefix="/silent")

    @blueprint.get("")
    async def says_nothing() -> Response:
        return reply(status=204)

    return blueprint


def test_a_route_that_does_not_say_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.api.app.ROUTES", (*ROUTES, silent_routes()))
    with pytest.raises(ConfigurationError) as refused:
        create_app(Settings())
    assert str(refused.value) == (
        "tests.api.test_access: says_nothing: the route /api/v1/silent does not say who may call it: "
        'add @requires("…") or @public, from roles.api.access'
    )


def test_the_place_among_the_decorators_does_not_matter() -> None:
    from functools import wraps

    def other(view: Any) -> Any:
        @wraps(view)
        async def wrapper() -> Any:
            return await view()

        return wrapper

    async def view() -> None: ...

    for decorated in (requires("a:b")(other(view)), other(requires("a:b")(view))):
        access = access_of(decorated)
        assert access is not None
        assert access.scopes == frozenset({"a:b"})
    assert access_of(public(other(view))) is not None


@pytest.mark.parametrize("scope", ["", "two words", 'qu"ote', "back\\slash", "é", "new\nline"])
def test_what_cannot_be_a_scope_is_none(scope: str) -> None:
    with pytest.raises(ValueError, match="is not a scope"):
        requires(scope)


def settings(bind: str, **auth: Any) -> Settings:
    return Settings.model_validate({"api": {"bind": bind}, "auth": auth})


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
async def test_nobody_serves_the_world_without_having_said_so(bind: str, pool: Pool) -> None:
    role = ApiRole(Resources(settings=settings(bind), pool=pool, amqp_urls={}))
    with pytest.raises(ConfigurationError) as refused:
        await role.run(task_status=anyio.TASK_STATUS_IGNORED, stop=anyio.Event())
    for word in (f'api.bind = "{bind}"', "APP_AUTH__MODE", "auth.allow_anonymous = true", "127.0.0.1"):
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "allowed",
    [
        settings("0.0.0.0:0", allow_anonymous=True),
        settings("0.0.0.0:0", mode="api_key"),
        settings("localhost:0"),
        settings("127.0.0.2:0"),
    ],
    ids=["it was said", "keys", "localhost", "loopback"],
)
async def test_who_has_said_so_or_serves_only_this_machine_may(allowed: Settings, pool: Pool) -> None:
    stop = anyio.Event()
    role = ApiRole(Resources(settings=allowed, pool=pool, amqp_urls={}))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(role.run, stop=stop))
            stop.set()


async def test_without_a_mode_everybody_may_do_everything(start_api: StartApi) -> None:
    async with start_api() as api:
        for authorization in ("", "Bearer nonsense", "Basic bm9ib2R5"):
            response = await api.http.post(
                "/api/v1/students", json={"name": "Ada"}, headers={"Authorization": authorization}
            )
            assert response.status_code == 201
