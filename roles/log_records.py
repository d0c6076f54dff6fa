"""What a log record looks like: first as data, then as a line for people. No password gets past here."""

from __future__ import annotations

import logging
import math
import re
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from schema.duration import format_duration
from schema.settings_sources import mask

_HEAD = ("timestamp", "level", "logger", "event")
_BLOCKS = ("exception", "stack")
_SECRET_NAME = re.compile(r"passw|secret|token|authorization|cookie", re.IGNORECASE)
_STYLES = {"debug": "dim", "info": "green", "warning": "yellow", "error": "bold red", "critical": "bold red"}


def shape(record: logging.LogRecord, bound: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON-able data: timestamp, level, logger, event; what its context had `bound`; its own fields.

    A field that would hide one of the first four gets an underscore at its end.
    """
    shaped: dict[str, Any] = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": _masked(record.getMessage()),
    }
    for name, value in {**bound, **getattr(record, "fields", {})}.items():
        secret = isinstance(value, str) and _is_secret(name)
        shaped[f"{name}_" if name in _HEAD else name] = "***" if secret else _plain(value)
    if record.stack_info:
        shaped["stack"] = _masked(record.stack_info)
    if record.exc_info and record.exc_info[0] is not None:
        shaped["exception"] = _masked("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return shaped


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def line(shaped: Mapping[str, Any], when: str) -> Iterator[tuple[str, str]]:
    """Pieces of text, each with its Rich style; a traceback goes below. What could move a cursor is escaped."""
    yield f"{when} ", "dim"
    yield f"{shaped['level']:<8} ", _STYLES.get(shaped["level"], "")
    yield _escape(shaped["event"]), "bold"
    for name, value in shaped.items():
        if name not in _HEAD + _BLOCKS:
            yield f" {name}=", "cyan"
            yield _quote(value), ""
    yield f" [{shaped['logger']}]", "dim"
    for name in _BLOCKS:
        if name in shaped:
            yield "\n" + "\n".join(_escape(text) for text in str(shaped[name]).splitlines()), "red"


def _plain(value: Any) -> Any:  # noqa: PLR0911 - a table
    match value:
        case None | bool() | int():
            return value
        case str():
            return _masked(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case date():
            return value.isoformat()
        case timedelta():
            return format_duration(value)
        case Mapping():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(inner) for inner in value]
        case BaseException():
            return _masked(f"{type(value).__qualname__}: {value}")
        case _:
            return _masked(str(value))


def _masked(text: str) -> str:
    return mask(text) if "://" in text else text


def _quote(value: object) -> str:
    if not isinstance(value, str):
        return repr(value)
    bare = value.isprintable() and value and not any(sign in value for sign in " \"'=")
    return value if bare else repr(value)


def _escape(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
