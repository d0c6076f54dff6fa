"""The body of a message for people: JSON in many lines, text as it is, and anything else in hexadecimal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import unified_diff

_WIDTH = 16
_MOST = 64 * 1024
"""Bytes of a body that is no text of which the hexadecimal form is shown."""


def readable(body: bytes) -> str:
    """Something to read, in lines. A terminal may still act on it: print it with `commands.command.show_text`."""
    if not body:
        return "(empty)"
    text = as_text(body)
    return hexadecimal(body) if text is None else text


def as_text(body: bytes) -> str | None:
    """The body as text that can be edited: JSON is spread over lines if that changes nothing else; None for bytes."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if (spread := _spread(text)) is None else spread


def hexadecimal(body: bytes) -> str:
    """A line for every sixteen bytes, as `xxd` writes it."""
    cut = [f"… {len(body) - _MOST} more bytes"] if len(body) > _MOST else []
    return "\n".join([*_rows(body[:_MOST]), *cut])


def difference(old: bytes, new: bytes) -> str:
    """What differs between two bodies, as a unified diff."""
    lines = unified_diff(
        readable(old).splitlines(), readable(new).splitlines(), "as it is", "as it would be", lineterm=""
    )
    return "\n".join(lines) or "(only in how it is written, not in what it says)"


def _spread(text: str) -> str | None:
    """JSON over several lines; None if it is none, or if it would not say the same (`1.10`, two like keys)."""
    try:
        value = json.loads(text)
        for ensure_ascii in (False, True):
            for separators in ((",", ":"), (", ", ": ")):
                if json.dumps(value, ensure_ascii=ensure_ascii, separators=separators) == text.strip():
                    return json.dumps(value, ensure_ascii=ensure_ascii, indent=2)
    except (ValueError, RecursionError):
        pass  # it is shown as the text that it is
    return None


def _rows(body: bytes) -> Iterator[str]:
    for offset in range(0, len(body), _WIDTH):
        row = body[offset : offset + _WIDTH]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)  # noqa: PLR2004 - printable ASCII
        yield f"{offset:08x}  {row.hex(' ', 2):<39}  {shown}"
