"""The Dockerfile and the compose file, as far as they can be tested without an engine."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from roles.api.guard import ensure_guarded
from schema.errors import ConfigurationError
from schema.settings import ROLES, Settings
from schema.settings_sources import load_settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
APPS = [name for name, service in COMPOSE["services"].items() if service.get("image") == "rolecall"]


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


def sources() -> list[str]:
    own = [shlex.split(line) for line in instructions("COPY") if "--from" not in line]
    return [source for words in own for source in words[:-1]]


def test_every_copied_source_exists_and_is_in_the_build_context() -> None:
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert sources()
    for source in sources():
        assert (ROOT / source).exists(), source
        assert source in allowed


def test_every_package_of_the_application_is_copied() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert packages <= set(sources())


def test_the_image_runs_as_nobody_of_importance_and_takes_roles() -> None:
    assert instructions("USER") == ["rolecall"]
    assert instructions("ENTRYPOINT") == ['["python", "app.py"]'], "exec form: the process gets the signals"
    assert instructions("CMD") == [f'["--roles", "{",".join(ROLES)}"]']
    assert "/health/ready" in instructions("HEALTHCHECK")[0]
    assert "--no-dev" in DOCKERFILE
    assert "--extra" not in DOCKERFILE


def test_the_images_settings_are_real_ones() -> None:
    environ = dict(re.findall(r"(APP_\w+)=(\S+)", "\n".join(instructions("ENV"))))
    settings = load_settings(environ=environ, directory=ROOT / "docs").settings
    assert settings.api.bind == "0.0.0.0:8090"
    assert settings.ops.bind == "0.0.0.0:8091"
    assert not settings.auth.allow_anonymous, "an image must not serve the world by default"
    with pytest.raises(ConfigurationError):
        ensure_guarded(settings)


@pytest.mark.parametrize("name", APPS)
def test_compose_configures_each_app_with_real_settings(name: str) -> None:
    service = COMPOSE["services"][name]
    environ = {key: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value) for key, value in service["environment"].items()}
    environ["APP_ROLES"] = service["command"][1]
    settings = load_settings(environ=environ, directory=ROOT / "docs").settings
    ensure_guarded(settings)
    assert settings.ops.token.get_secret_value()
    host = re.search(r"@([^/]+)/", settings.database.url.get_secret_value())
    assert host is not None
    assert host[1] in COMPOSE["services"]
    broker = re.search(r"@([^/]+)/", settings.amqp["example"].url.get_secret_value())
    assert broker is not None
    assert broker[1] in COMPOSE["services"]


def test_compose_has_one_container_with_all_roles_or_one_for_each() -> None:
    by_default = [name for name in APPS if "profiles" not in COMPOSE["services"][name]]
    split = [name for name in APPS if COMPOSE["services"][name].get("profiles") == ["split"]]
    assert by_default == ["app"]
    assert sorted(split) == sorted(ROLES)
    for name in split:
        assert COMPOSE["services"][name]["command"] == ["--roles", name]


def test_a_container_is_not_killed_before_its_drain_is_over() -> None:
    grace = COMPOSE["services"]["app"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings().supervisor.drain_timeout.total_seconds() + 1


def test_nothing_is_published_beyond_loopback() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_the_locked_environment_is_the_declared_one() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert {re.split(r"[\[>=<]", requirement)[0] for requirement in declared} <= locked
