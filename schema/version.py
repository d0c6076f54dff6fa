"""The version of a row, as a field of a model: it grows with each change, and is the ETag of its replies."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final

from pydantic import BaseModel, Field

_MARK: Final = object()

Version = Annotated[int, Field(description="Grows by one with each change; in quotes the ETag.", examples=[1]), _MARK]


@cache
def version_field(model: type[BaseModel]) -> str | None:
    """The name of the field that is a `Version`; None if there is none."""
    return next((name for name, field in model.model_fields.items() if _MARK in field.metadata), None)
