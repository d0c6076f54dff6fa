"""Rows that count their changes, so that a change can be meant for the row as somebody has seen it.

```
Column("version", Integer, nullable=False, server_default=text("1"), onupdate=NEXT)   # in the table
update(student).where(…, at_version(student))                                         # in a query
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ARRAY, ColumnElement, Integer, Table, bindparam, func, or_, text

Versions = Sequence[int] | None
"""Those at which a row may be changed; None for any."""

NEXT: Final = text("version + 1")
"""What every update of a row sets its version to."""


class Outdated(Exception):
    """The row is at another version than the change is meant for."""


def at_version(table: Table) -> ColumnElement[bool]:
    """Whether a row is at one of the query's parameter `versions`, which may be None or left out."""
    versions = bindparam("versions", None, type_=ARRAY(Integer))
    return or_(versions.is_(None), table.c.version == func.any(versions))
