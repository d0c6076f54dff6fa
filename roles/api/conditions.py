"""Conditional requests (RFC 9110 §13): `If-None-Match` saves sending what a client has,
`If-Match` overwriting what it has not.

The entity tag of a model with a `Version` is that version, so that it can be compared with the row. Any other reply
to a GET has a weak one, made of its content.
"""

from __future__ import annotations

import re
from hashlib import blake2b

import quart
from pydantic import BaseModel
from werkzeug.http import unquote_etag

from db.versions import Versions
from roles.api.request import Request
from schema.version import version_field

_VERSION = re.compile("[1-9][0-9]{0,8}")


def entity_tag(model: BaseModel, body: bytes, method: str) -> str | None:
    """The value of `ETag` for a reply; None if it has none."""
    field = version_field(type(model))
    if field is not None:
        return f'"{getattr(model, field)}"'
    if method in ("GET", "HEAD"):
        return f'W/"{blake2b(body, digest_size=12).hexdigest()}"'
    return None


def is_known(request: Request, tag: str) -> bool:
    """Whether the client has what it asks for, as `If-None-Match` says."""
    if b"if-none-match" not in request.sent or request.method not in ("GET", "HEAD"):
        return False
    opaque, _ = unquote_etag(tag)
    return request.if_none_match.contains_weak(opaque)


def if_match() -> Versions:
    """The versions that `If-Match` wants a row to be at; None if any will do. Other tags are no version's."""
    request = quart.request
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    return [int(tag) for tag in request.if_match.as_set() if tag and _VERSION.fullmatch(tag)]
