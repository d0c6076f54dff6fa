"""Text that is to be stored: what it has to be checked for, and what can be kept of any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

from pydantic import AfterValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class _Documented(AfterValidator):
    """A check that JSON Schema can express too."""

    pattern: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}


def _check(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    return text


NO_NUL = _Documented(_check, pattern=r"^[^\u0000]*$")
"""PostgreSQL's `text` cannot hold NUL. To be put last: `Annotated[str, Field(max_length=200), NO_NUL]`."""


@overload
def storable(text: str) -> str: ...
@overload
def storable(text: None) -> None: ...
@overload
def storable(text: str | None) -> str | None: ...
def storable(text: str | None) -> str | None:
    """What PostgreSQL can store of it: no NUL, no half characters."""
    return None if text is None else text.replace("\x00", "").encode(errors="replace").decode()


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store it as it is."""
    return storable(text) == text
