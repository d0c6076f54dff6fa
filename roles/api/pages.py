"""Pages of a list, by key: where one ends is a cursor, and the next one begins there, whatever was added meanwhile.

```
async with connection() as conn:
    page = await Page.open(conn, query_args)
    found = await students.page(conn, after=page.after, limit=page.limit, …)
return page.reply(StudentPage, found)
```
A cursor is signed, for its list and its filters: a client can neither make one up nor take it elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote, urlencode

from itsdangerous import BadData, URLSafeSerializer
from pydantic import BaseModel
from pydantic_core import to_json
from quart import Response, current_app, request

from db import secrets
from db.query import Connection
from roles.api.replies import Refusal, reply
from schema.pages import PageQuery
from schema.problems import INVALID, FieldError
from schema.settings import Settings

Item = TypeVar("Item", bound=BaseModel)

EXTENSION: Final = "rolecall-cursors"
"""Where the application keeps its `Cursors`."""

SECRET: Final = "cursors"  # noqa: S105 - the name of one
"""The key's name in the table of secrets."""


class Cursors:
    """Signs cursors, with `api.cursor_key`, or with a key that all replicas find in the database."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api.cursor_key.get_secret_value().encode()

    async def signer(self, conn: Connection, about: bytes) -> URLSafeSerializer:
        """For cursors that are good for this alone."""
        if not self._key:
            self._key = await secrets.get(conn, SECRET)
        return URLSafeSerializer(self._key, salt=about, signer_kwargs={"digest_method": sha256})


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is about to be read.

    Params:
        after: the key that it begins after; 0 for the first.
        limit: how many to read: one more than are shown, which tells whether there is another page.
    """

    after: int
    limit: int
    _query: PageQuery
    _signer: URLSafeSerializer

    @classmethod
    async def open(cls, conn: Connection, query: PageQuery) -> Self:
        """The page that `query` asks for.

        Raises:
            Refusal: its cursor is none, or one of another list or of other filters (422).
        """
        filters = query.model_dump(exclude={"cursor", "limit"})
        cursors = cast("Cursors", current_app.extensions[EXTENSION])
        signer = await cursors.signer(conn, to_json([request.path, filters]))
        after = 0
        if query.cursor is not None:
            try:
                after = int(signer.loads(query.cursor))
            except BadData:
                raise Refusal(_NO_CURSOR) from None
        return cls(after, query.limit + 1, query, signer)

    def reply(
        self, model: Callable[..., BaseModel], found: Sequence[Item], *, key: Callable[[Item], int] | None = None
    ) -> Response:
        """The page, with `Link` to the first and the next (RFC 8288).

        Params:
            model: of the page; has `items` and `next`.
            found: what was read, at most `limit`.
            key: what the list is ordered by; by default the id.
        """
        items = found[: self._query.limit]
        following = None
        if len(found) > len(items):
            last: Any = items[-1]
            following = self._signer.dumps(key(last) if key else last.id)
        response = reply(model(items=items, next=following))
        response.headers["Link"] = self._link("first", None)
        if following is not None:
            response.headers["Link"] += ", " + self._link("next", following)
        return response

    def _link(self, relation: str, cursor: str | None) -> str:
        given = self._query.model_dump(exclude_unset=True, mode="json", by_alias=True) | {"cursor": cursor}
        parameters = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in given.items()
            if value is not None
        }
        path = quote(request.path)
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        return f'<{target}>; rel="{relation}"'


_NO_CURSOR = INVALID(
    "A value is not acceptable.",
    errors=[
        FieldError(
            detail="Not a cursor of this list with these filters: take `next` of a page, or begin without one.",
            code="cursor",
            parameter="cursor",
        )
    ],
)
