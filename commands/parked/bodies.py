"""The body of a message for people: JSON in many lines, text as it is, and anything else in hexadecimal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import unified_diff

_WIDTH = 16
_MOST = 64 * 1024
"""Bytes of a body that is no text of which the hexadecimal form is shown."""

_MOST_LINES = 10_000
"""Lines of two bodies together of which those that are alike are looked for: that takes a time that grows with their
square, here a second."""
_SIDES = ("as it is", "as it would be")
_AROUND = 3
"""Lines around a difference that are shown too."""


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
    before, after = readable(old).splitlines(), readable(new).splitlines()
    if len(before) + len(after) <= _MOST_LINES:
        lines = unified_diff(before, after, *_SIDES, lineterm="")
    else:
        lines = _one_hunk(before, after)
    return "\n".join(lines) or "(only in how it is written, not in what it says)"


def _one_hunk(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """A unified diff that takes everything between the first and the last difference for different."""
    if before == after:
        return
    start = _alike(before, after)
    end = _alike(before[start:][::-1], after[start:][::-1])
    first = max(0, start - _AROUND)
    last = max(0, end - _AROUND)
    yield from (f"--- {_SIDES[0]}", f"+++ {_SIDES[1]}")
    yield f"@@ -{first + 1},{len(before) - last - first} +{first + 1},{len(after) - last - first} @@"
    yield from (f" {line}" for line in before[first:start])
    yield from (f"-{line}" for line in before[start : len(before) - end])
    yield from (f"+{line}" for line in after[start : len(after) - end])
    yield from (f" {line}" for line in before[len(before) - end : len(before) - last])


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (line, another) in pairs if line != another), min(len(one), len(other)))


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
