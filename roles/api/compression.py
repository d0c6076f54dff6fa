"""Replies that are worth it are compressed with gzip, for clients that take it."""

from __future__ import annotations

import zlib
from typing import Final

from quart import Response
from quart.wrappers.response import DataBody
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

MINIMUM: Final = 1024
"""Bytes. Less fits into one packet, compressed or not."""
LEVEL: Final = 5
"""Beyond it the time grows faster than the gain."""
TYPES: Final = ("application/json", "application/problem+json", "text/html; charset=utf-8")
_GZIP = 16 + zlib.MAX_WBITS


def compress(response: Response, accepted: str) -> None:
    """Compresses the body in place.

    A reply with a strong `ETag` stays as it is: the tag names these very bytes, and comes back in `If-Match`
    (RFC 9110 §8.8.1). So does one whose body is read from a file.

    Params:
        accepted: the request's `Accept-Encoding`.
    """
    body = response.response
    if not isinstance(body, DataBody) or len(body.data) < MINIMUM or response.content_type not in TYPES:
        return
    headers = response.headers
    if "Content-Encoding" in headers or headers.get("ETag", "W/").startswith('"'):
        return
    response.vary.add("Accept-Encoding")
    if "gzip" not in accepted or not parse_accept_header(accepted, Accept).quality("gzip"):
        return
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    response.set_data(compressor.compress(body.data) + compressor.flush())
    headers["Content-Encoding"] = "gzip"
