"""`Query`: a SQLAlchemy Core statement, compiled once at import and run on a psycopg connection.

Core writes the SQL; psycopg runs it. Compiling is most of what an engine costs per statement, so it is done
when the module is imported, and a statement that does not compile fails there and not at three in the morning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from psycopg.rows import dict_row
from pydantic import BaseModel
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import CompilerElement

from db.pooled_connection import PooledConnection

Connection = PooledConnection
Model = TypeVar("Model", bound=BaseModel)

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class Query:
    """A compiled statement with named parameters (`bindparam("id")`).

    A parameter that the caller leaves out has the value that the statement gave it, if it gave one. Values go
    to the server as bound parameters, never into the text. Use `= ANY(:ids)` rather than `IN`, and wrap JSON in
    `psycopg.types.json.Jsonb`: SQLAlchemy's own processing of values is not run.
    """

    __slots__ = ("_defaults", "_required", "sql")

    def __init__(self, statement: Executable) -> None:
        if not isinstance(statement, CompilerElement):
            raise TypeError(f"{statement!r} is not a statement that SQLAlchemy can compile")
        compiled = statement.compile(dialect=_DIALECT)
        if not isinstance(compiled, SQLCompiler):
            raise TypeError(f"{statement!r} defines the schema; migrations do that")
        self.sql = str(compiled).encode()
        self._required = frozenset(name for name, bind in compiled.binds.items() if bind.required)
        self._defaults: Mapping[str, Any] = {
            name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required
        }

    async def one(self, connection: Connection, model: type[Model], **parameters: Any) -> Model | None:
        """The first row as a `model`, or None if there is none."""
        row = await connection.first(self.sql, self._bind(parameters))
        return None if row is None else model.model_validate(row, by_name=True)

    async def all(self, connection: Connection, model: type[Model], **parameters: Any) -> list[Model]:
        """All rows, each as a `model`."""
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(self.sql, self._bind(parameters))
            return [model.model_validate(row, by_name=True) for row in await cursor.fetchall()]

    async def scalar(self, connection: Connection, **parameters: Any) -> Any:
        """The first column of the first row, or None if there is no row."""
        async with connection.cursor() as cursor:
            await cursor.execute(self.sql, self._bind(parameters))
            row = await cursor.fetchone()
        return None if row is None else row[0]

    async def scalars(self, connection: Connection, **parameters: Any) -> list[Any]:
        """The first column of all rows."""
        async with connection.cursor() as cursor:
            await cursor.execute(self.sql, self._bind(parameters))
            return [row[0] for row in await cursor.fetchall()]

    async def execute(self, connection: Connection, **parameters: Any) -> int:
        """Runs the statement and returns the number of rows that it touched."""
        async with connection.cursor() as cursor:
            await cursor.execute(self.sql, self._bind(parameters))
            return cursor.rowcount

    async def hold(
        self, connection: PooledConnection, *, then: Callable[[], None] = lambda: None, **parameters: Any
    ) -> None:
        """Runs the statement no later than right before the next one, or with the commit; see `PooledConnection`."""
        await connection.hold(self.sql, self._bind(parameters), then=then)

    def _bind(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if missing := self._required - parameters.keys():
            raise TypeError(f"parameters {sorted(missing)} are missing for: {self.sql.decode()}")
        return {**self._defaults, **parameters}
