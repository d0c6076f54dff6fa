"""Where settings come from: flags, the environment, `.env`, `config.toml`, defaults, in that order of strength.

Every value remembers its origin, so that an error can say where the bad one stands and `python app.py config`
can say where the effective one came from. Nothing is guessed: an unknown key is an error in every source.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schema.errors import ConfigurationError
from schema.meant import meant
from schema.settings import EMBEDDED, Settings
from schema.text import is_storable

PREFIX = "APP_"
SHORT_NAMES = {"ROLES": ("roles",), "DEBUG": ("debug",)}
"""Environment names that work without the prefix."""

Key = tuple[str, ...]
"""The path of a setting: `("amqp", "example", "url")`."""

_SERVICE_LINK = re.compile(r"APP_(?:[A-Z0-9_]+_)?(?:SERVICE_(?:HOST|PORT)|PORT)(?:_[A-Z0-9_]+)?")
"""What Kubernetes tells a container about a Service named `app`, or `app-…`: not meant for us."""

_SECRET_NAME = re.compile("password|url|token|key$")
"""Of settings whose values are not quoted."""

_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):([^/\s]*)@")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found: a source (`config.toml`) and the name it has there (`[api] bind`)."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}: {self.name}" if self.name else self.source


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force and where each that is not a default came from."""

    settings: Settings
    origins: Mapping[Key, Origin]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """`(name, value, origin)` of every setting in force, in TOML's spelling, with secrets masked."""
        for key, value in _leaves(self.settings.model_dump(mode="json", warnings=False), ()):
            shown = _secret_values(self.settings, key) or (mask(value) if isinstance(value, str) else value)
            origin = self.origins.get(key)
            yield ".".join(key), json.dumps(shown), str(origin) if origin else "default"


def load_settings(
    *,
    flags: Mapping[str, Any] | None = None,
    config: Path | None = None,
    environ: Mapping[str, str],
    directory: Path | None = None,
) -> LoadedSettings:
    """Reads all sources and validates the result.

    Params:
        flags: what the command line set, by dotted key (`{"api.bind": "…"}`); wins over everything.
        config: a TOML file that must exist; by default `config.toml` in `directory`, if there is one.
        environ: the environment.
        directory: where `config.toml` and `.env` are looked for; by default the current one.

    Raises:
        ConfigurationError: one line per bad value or unknown key: source, section, key, and what would be right.
    """
    directory = directory or Path()
    merged: dict[str, Any] = {}
    origins: dict[Key, Origin] = {}
    errors: list[str] = []
    for values in (
        _from_toml(config or directory / "config.toml", required=config is not None),
        _from_environment(".env", _dotenv(directory / ".env")),
        _from_environment("environment", environ),
        ((tuple(name.split(".")), value, Origin("command line", name)) for name, value in (flags or {}).items()),
    ):
        for key, value, origin in values:
            if _is_no_text(value) or any(map(_is_no_text, key)):
                errors.append(f"{origin.source}: {origin.name!a}: must be UTF-8 text, without NUL")
                continue
            if not _put(merged, key, value):
                errors.append(f"{origin}: {key[0]!r} is a section or a value, not both")
            origins[key] = origin
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        errors.extend(dict.fromkeys(_explain(detail, origins) for detail in details))
    if errors:
        raise ConfigurationError("\n".join(errors))
    return LoadedSettings(settings, origins)


def mask(url: str) -> str:
    """`url` with its password replaced by `***`."""
    return _PASSWORD.sub(r"\1:***@", url)


def _from_toml(path: Path, *, required: bool) -> Iterator[tuple[Key, Any, Origin]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"{path}: there is no such file (it was named by --config)") from None
        return
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    for key, value in _leaves(document, ()):
        yield key, value, Origin(path.name, _toml_name(key))


def _dotenv(path: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def _is_no_text(value: object) -> bool:
    """Whether it is what a variable has that is not UTF-8, or what nobody outside of this process can be given."""
    return isinstance(value, str) and not is_storable(value)


def _from_environment(source: str, variables: Mapping[str, str | None]) -> Iterator[tuple[Key, Any, Origin]]:
    for name, value in variables.items():
        if value is None:
            continue
        if name in SHORT_NAMES:
            yield SHORT_NAMES[name], value, Origin(source, name)
    for name, value in variables.items():  # the long name is the more specific one, and wins over the short
        foreign = "__" not in name and _SERVICE_LINK.fullmatch(name)
        if name.startswith(PREFIX) and value is not None and not foreign:
            yield tuple(name.removeprefix(PREFIX).lower().split("__")), value, Origin(source, name)


def _leaves(table: Mapping[str, Any], above: Key) -> Iterator[tuple[Key, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _put(table: dict[str, Any], key: Key, value: object) -> bool:
    for name in key[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            return False
    if isinstance(table.get(key[-1]), dict) and table[key[-1]]:
        return False
    table[key[-1]] = value
    return True


def _toml_name(key: Key) -> str:
    return f"[{'.'.join(key[:-1])}] {key[-1]}" if len(key) > 1 else key[0]


def _explain(detail: ErrorDetails, origins: Mapping[Key, Origin]) -> str:
    path = [str(part) for part in detail["loc"]]
    message = detail["msg"].removeprefix("Value error, ")
    origin = _origin_of(tuple(path), origins)
    if detail["type"] == "extra_forbidden":
        known = list(_model_at(path[:-1]).model_fields)
        hint = meant(path[-1], known, otherwise=f"the keys here are {', '.join(known)}")
        return f"{origin or Origin('settings', _toml_name(tuple(path)))}: unknown setting {'.'.join(path)!r}: {hint}"
    if not path:  # about sections that do not fit together
        return f"settings: {message}"
    where = str(origin) if origin else _toml_name(tuple(path))
    value = "…" if any(map(_SECRET_NAME.search, path)) else detail["input"]
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{where}{shown}: {'.'.join(path)}: {message}"


def _origin_of(path: Key, origins: Mapping[Key, Origin]) -> Origin | None:
    """The origin of the value at `path`, of the table that it is in, or of the first value below it."""
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return origins[path[:end]]
    return next((origin for key, origin in origins.items() if key[: len(path)] == path), None) if path else None


def _model_at(path: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    names = iter(path)
    for name in names:
        annotation = model.model_fields[name].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        else:  # a table of sections: dict[name, section]
            next(names, None)
            model = next(
                part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)
            )
    return model


def _secret_values(settings: Settings, key: Key) -> str | None:
    value: Any = settings
    for name in key:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return _masked(value.get_secret_value()) if hasattr(value, "get_secret_value") else None


def _masked(secret: str) -> str:
    if "://" in secret:
        return mask(secret)
    return secret if secret in ("", EMBEDDED) else "***"
