"""What every text that is to be stored has to be checked for."""

from __future__ import annotations

from pydantic import AfterValidator


def _check(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    return text


NO_NUL = AfterValidator(_check)
"""PostgreSQL's `text` cannot hold NUL. To be put last: `Annotated[str, Field(max_length=200), NO_NUL]`."""
