"""Times that only PostgreSQL knows: `infinity`, and those before the year 1 or after 9999.

psycopg raises an error for them, and so one row, of whoever meant "for ever", would keep all others of its page from
being read. Here each is the nearest time that Python has.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader

_TYPE: Final = "timestamptz"
_EARLY: Final = re.compile(rb"-infinity|.* BC")
_LATE: Final = re.compile(rb"infinity|\d{5,}-.*")

EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
LATEST: Final = datetime.max.replace(tzinfo=UTC)


class TimeLoader(Loader):
    """psycopg's own, and what it refuses."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        loader = psycopg.adapters.get_loader(oid, self.format)
        assert loader is not None, "psycopg has one for each of its types"
        self._load = loader(oid, context).load

    def load(self, data: Buffer) -> Any:
        try:
            return self._load(data)
        except psycopg.DataError:
            text = bytes(data)
            if _EARLY.fullmatch(text):
                return EARLIEST
            if _LATE.fullmatch(text):
                return LATEST
            raise


def load_all_times(context: AdaptContext) -> None:
    """Has this connection take whatever time it is sent."""
    context.adapters.register_loader(_TYPE, TimeLoader)
