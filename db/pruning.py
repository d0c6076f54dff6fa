"""Forgetting rows: the oldest of a table, so many at a time, in nobody's way."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, Interval, Table, bindparam, delete, func, literal_column, select

from db.query import Query


def prune_query(table: Table, since: Column[Any], *which: ColumnElement[bool]) -> Query:
    """Deletes the rows of which `since` lies longer ago than `older_than`, the oldest first, `at_most` so many.

    It waits for nobody: a row that another transaction has locked is left for the next time.

    Params:
        since: an indexed column.
        which: what else must hold of a row.
    """
    oldest = (
        select(literal_column("ctid"))
        .select_from(table)
        .where(since < func.now() - bindparam("older_than", type_=Interval), *which)
        .order_by(since)
        .limit(bindparam("at_most"))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return Query(delete(table).where(literal_column("ctid") == func.any(func.array(oldest))))
