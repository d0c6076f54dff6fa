"""Settings: who wins, what is refused and how, and that no secret is shown."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schema.errors import ConfigurationError
from schema.settings import Settings
from schema.settings_sources import LoadedSettings, load_settings

ROOT = Path(__file__).parent.parent.parent


def load(
    directory: Path,
    *,
    toml: str | None = None,
    dotenv: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> LoadedSettings:
    if toml is not None:
        (directory / "config.toml").write_text(toml)
    if dotenv is not None:
        (directory / ".env").write_text(dotenv)
    return load_settings(environ=environ or {}, flags=flags, directory=directory)


def refusal(directory: Path, **sources: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, **sources)
    return str(caught.value)


def test_the_stronger_source_wins(tmp_path: Path) -> None:
    sources: dict[str, Any] = {}
    order: list[tuple[dict[str, Any], str, str]] = [
        ({}, "127.0.0.1:8090", "default"),
        ({"toml": '[api]\nbind = "127.0.0.1:1"'}, "127.0.0.1:1", "config.toml: [api] bind"),
        ({"dotenv": "APP_API__BIND=127.0.0.1:2"}, "127.0.0.1:2", ".env: APP_API__BIND"),
        ({"environ": {"APP_API__BIND": "127.0.0.1:3"}}, "127.0.0.1:3", "environment: APP_API__BIND"),
        ({"flags": {"api.bind": "127.0.0.1:4"}}, "127.0.0.1:4", "command line: api.bind"),
    ]
    for source, value, origin in order:
        sources.update(source)
        loaded = load(tmp_path, **sources)
        assert loaded.settings.api.bind == value
        assert next(row for row in loaded.rows() if row[0] == "api.bind") == ("api.bind", f'"{value}"', origin)


def test_the_short_names_work(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"ROLES": "consume, api", "DEBUG": "true"}).settings
    assert settings.roles == ("consume", "api")
    assert settings.debug


def test_the_long_name_wins_over_the_short_one(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"APP_ROLES": "api", "ROLES": "consume"}).settings
    assert settings.roles == ("api",)


def test_brokers_are_as_many_as_are_named(tmp_path: Path) -> None:
    environ = {"APP_AMQP__EXAMPLE__URL": "amqp://a/", "APP_AMQP__BILLING__URL": "amqp://b/"}
    settings = load(tmp_path, toml='[amqp.example]\nheartbeat = "1s"', environ=environ).settings
    assert {name: broker.url.get_secret_value() for name, broker in settings.amqp.items()} == {
        "example": "amqp://a/",
        "billing": "amqp://b/",
    }
    assert settings.amqp["example"].heartbeat == timedelta(seconds=1)


def test_a_numeric_and_a_textual_user_name_are_both_just_text(tmp_path: Path) -> None:
    for user in ("12345", "guest", "true", "null"):
        settings = load(tmp_path, environ={"APP_AMQP__EXAMPLE__URL": f"amqp://{user}:s@host/vhost"}).settings
        assert settings.amqp["example"].url.get_secret_value() == f"amqp://{user}:s@host/vhost"


def test_other_peoples_variables_are_none_of_ours(tmp_path: Path) -> None:
    assert (
        load(tmp_path, environ={"APPLE": "1", "HOME": "/"}, dotenv="POSTGRES_PASSWORD=x\nBARE").settings == Settings()
    )


def test_what_kubernetes_says_of_a_service_named_app_is_none_of_ours(tmp_path: Path) -> None:
    links = {
        "APP_SERVICE_HOST": "10.0.0.1",
        "APP_SERVICE_PORT": "8090",
        "APP_SERVICE_PORT_HTTP": "8090",
        "APP_PORT": "tcp://10.0.0.1:8090",
        "APP_PORT_8090_TCP": "tcp://10.0.0.1:8090",
        "APP_PORT_8090_TCP_ADDR": "10.0.0.1",
        "APP_METRICS_SERVICE_HOST": "10.0.0.1",
    }
    assert load(tmp_path, environ=links).settings == Settings()
    assert "unknown setting" in refusal(tmp_path, environ={"APP_API__PORT": "8090"})


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            {"toml": '[api]\nbnd = "127.0.0.1:1"'},
            "config.toml: [api] bnd: unknown setting 'api.bnd': did you mean 'bind'?",
        ),
        (
            {"environ": {"APP_DATABASE__URLL": "x"}},
            "environment: APP_DATABASE__URLL: unknown setting 'database.urll': did you mean 'url'?",
        ),
        (
            {"environ": {"APP_NOPE__X": "x"}},
            "environment: APP_NOPE__X: unknown setting 'nope': the keys here are roles, debug,",
        ),
        (
            {"dotenv": "APP_API__BIND=8090"},
            ".env: APP_API__BIND = '8090': api.bind: not host:port (try '127.0.0.1:8090')",
        ),
        (
            {"toml": "[api]\nbind = 8090"},
            "config.toml: [api] bind = 8090: api.bind: not host:port (try '127.0.0.1:8090')",
        ),
        (
            {"toml": '[amqp.example]\nheartbeat = "5x"'},
            "config.toml: [amqp.example] heartbeat = '5x': amqp.example.heartbeat: '5x' is not a duration (try '5s'",
        ),
        (
            {"toml": "[amqp.example]\nheartbeat = 5"},
            "config.toml: [amqp.example] heartbeat = 5: amqp.example.heartbeat: 5 is not a duration (try '5s'",
        ),
        (
            {"toml": '[supervisor]\ndrain_timeout = "0s"'},
            "supervisor.drain_timeout: must be longer than zero",
        ),
        (
            {"flags": {"roles": "api,shedule"}},
            "unknown role 'shedule': did you mean 'schedule'? (the roles are api, consume, schedule)",
        ),
        (
            {"environ": {"ROLES": ""}},
            "environment: ROLES = '': roles: names no role (the roles are api, consume, schedule)",
        ),
        (
            {"environ": {"APP_DATABASE__URL": "mysql://host/x"}},
            "APP_DATABASE__URL = '…': database.url: not a PostgreSQL URL (try 'postgresql://",
        ),
        ({"environ": {"DEBUG": "maybe"}}, "environment: DEBUG = 'maybe': debug: Input should be a valid boolean"),
        (
            {"environ": {"APP_DATABASE__POOL_MIN_SIZE": "50"}},
            "pool_min_size 50 is more than pool_max_size 30",
        ),
        ({"environ": {"APP_DATABASE": "x"}}, "environment: APP_DATABASE"),
        ({"toml": "[api\n"}, "config.toml: not valid TOML"),
    ],
)
def test_bad_input_is_refused_with_where_and_what_would_be_right(
    tmp_path: Path, sources: dict[str, Any], message: str
) -> None:
    assert message in refusal(tmp_path, **sources)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = refusal(tmp_path, toml='[api]\nbnd = 1\nbind = "x"\n[ops]\nbind = "y"')
    assert len(told.splitlines()) == 3


def test_a_section_and_a_value_of_one_name_are_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, environ={"APP_API__BIND": "127.0.0.1:1", "APP_API__BIND__PORT": "1"})
    assert "environment: APP_API__BIND__PORT: 'api' is a section or a value, not both" in told


def test_a_config_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"nowhere\.toml: there is no such file \(it was named by --config\)"
    ):
        load_settings(environ={}, config=tmp_path / "nowhere.toml", directory=tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(environ={}, config=tmp_path, directory=tmp_path)


@pytest.mark.parametrize("password", ["hunter2", "p:x", "p%40x"])
def test_no_password_is_shown(tmp_path: Path, password: str) -> None:
    environ = {
        "APP_DATABASE__URL": f"postgresql://app:{password}@db/app",
        "APP_AMQP__EXAMPLE__URL": f"amqp://app:{password}@mq/app",
    }
    loaded = load(tmp_path, environ=environ)
    shown = "\n".join(" ".join(row) for row in loaded.rows())
    assert "postgresql://app:***@db/app" in shown
    assert "amqp://app:***@mq/app" in shown
    assert password not in shown
    assert password not in repr(loaded)


def test_no_password_is_in_an_error(tmp_path: Path) -> None:
    environ = {"APP_DATABASE__URL": "postgresql://app:hunter2@db/app", "APP_DATABASE__POOL_MIN_SIZE": "50"}
    assert "hunter2" not in refusal(tmp_path, environ=environ)
    assert "hunter2" not in refusal(tmp_path, toml='[database]\nurl = ["postgresql://app:hunter2@db/app"]')
    assert "hunter2" not in refusal(tmp_path, environ={"APP_DATABASE__URL": "postgres+x://app:hunter2@db/app"})


def test_config_toml_says_every_default_and_nothing_else() -> None:
    def leaves(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in table.items():
            if isinstance(value, dict):
                found |= leaves(value, f"{above}{name}.")
            else:
                found[above + name] = value
        return found

    document = tomllib.loads((ROOT / "config.toml").read_text())
    assert leaves(document).keys() == leaves(Settings().model_dump(mode="json")).keys()
    assert Settings.model_validate(document) == Settings()


def test_a_management_url_is_checked_and_its_password_masked(here: Path) -> None:
    name = "APP_AMQP__EXAMPLE__MANAGEMENT_URL"
    loaded = load_settings(environ={name: "http://admin:secret@host:15672"})
    shown = {row[0]: row[1] for row in loaded.rows()}
    assert shown["amqp.example.management_url"] == '"http://admin:***@host:15672"'
    with pytest.raises(ConfigurationError, match="management API") as caught:
        load_settings(environ={name: "amqp://admin:secret@host"})
    assert "secret" not in str(caught.value)


def test_what_is_no_text_is_refused_by_its_name(tmp_path: Path) -> None:
    assert refusal(tmp_path, environ={"APP_DATABASE__APPLICATION_NAME": "\udcff"}) == (
        "environment: 'APP_DATABASE__APPLICATION_NAME': must be UTF-8 text, without NUL"
    )
    assert "'APP_\\udcff'" in refusal(tmp_path, environ={"APP_\udcff": "1"})
    assert "'[database] url'" in refusal(tmp_path, toml='[database]\nurl = "postgresql://a\\u0000hunter2"')


def test_a_dotenv_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DEBUG=\xff")
    assert refusal(tmp_path) == f"{tmp_path / '.env'}: not UTF-8: invalid start byte at byte 6"


def test_a_byte_order_mark_is_no_part_of_the_settings(tmp_path: Path) -> None:
    assert load(tmp_path, toml="\ufeffdebug = true", dotenv="\ufeffAPP_ROLES=api").settings.debug
    assert load(tmp_path).settings.roles == ("api",)


@pytest.mark.parametrize("port", ["99999", "abc", "0", "-1", "1 "])
@pytest.mark.parametrize(
    ("name", "scheme"),
    [("CLIENTS__TIMEZONE__URL", "http"), ("CLIENTS__JWKS__URL", "https"), ("CACHE__URL", "redis")],
)
def test_a_port_that_cannot_be_one_is_refused_at_the_start(tmp_path: Path, name: str, scheme: str, port: str) -> None:
    found = refusal(tmp_path, environ={f"APP_{name}": f"{scheme}://user:hunter2@host:{port}"})
    assert found.startswith(f"environment: APP_{name} = '…': {name.lower().replace('__', '.')}: not the ")
    assert "hunter2" not in found


@pytest.mark.parametrize("url", ["http://h h", "http://\x7f", "http://é..", "http://" + "a" * 64, "http://["])
def test_a_host_that_cannot_be_one_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    assert "not the base URL" in refusal(tmp_path, environ={"APP_CLIENTS__TIMEZONE__URL": url})
    assert "not an origin" in refusal(tmp_path, environ={"APP_API__CORS_ORIGINS": url})


@pytest.mark.parametrize("origin", ["http://", "https://user:pw@host", "https://host:99999", "https://host/"])
def test_what_no_browser_would_send_is_no_origin(tmp_path: Path, origin: str) -> None:
    assert "not an origin" in refusal(tmp_path, environ={"APP_API__CORS_ORIGINS": origin})


@pytest.mark.parametrize(
    "variable",
    [
        "APP_DATABASE__STATEMENT_TIMEOUT",
        "APP_DATABASE__IDLE_IN_TRANSACTION_SESSION_TIMEOUT",
        "APP_DATABASE__CLIENT_CONNECTION_CHECK_INTERVAL",
        "APP_API__KEEP_ALIVE_TIMEOUT",
        "APP_SUPERVISOR__BLOCKED_LOOP",
    ],
)
def test_a_time_that_postgresql_or_the_kernel_would_not_take_is_refused(tmp_path: Path, variable: str) -> None:
    assert "24d or shorter" in refusal(tmp_path, environ={variable: "25d"})
    assert "1ms or longer" in refusal(tmp_path, environ={variable: "0.4ms"})
    load(tmp_path, environ={variable: "24d"})
    load(tmp_path, environ={variable: "1ms"})


@pytest.mark.parametrize("url", ["https://app:hunter2@host", "https://app:hunter2@host:8080/base"])
def test_the_password_of_a_service_is_not_shown(tmp_path: Path, url: str) -> None:
    loaded = load(tmp_path, environ={"APP_CLIENTS__TIMEZONE__URL": url, "APP_CLIENTS__JWKS__URL": url})
    assert loaded.settings.clients.timezone.url == url
    shown = {name: value for name, value, _ in loaded.rows()}
    assert shown["clients.timezone.url"] == shown["clients.jwks.url"] == f'"{url.replace("hunter2", "***")}"'


def test_keys_may_be_at_a_url_with_a_query(tmp_path: Path) -> None:
    url = "https://example.org/keys?p=policy"
    assert load(tmp_path, environ={"APP_CLIENTS__JWKS__URL": url}).settings.clients.jwks.url == url
    for bad in ("ftp://example.org/keys", "keys", "https://example.org/keys#2"):
        assert "not the URL of a document" in refusal(tmp_path, environ={"APP_CLIENTS__JWKS__URL": bad})
