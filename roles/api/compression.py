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


def is_worth_compressing(response: Response) -> bool:
    """Whether `compress` should be asked.

    A reply with a strong `ETag` stays as it is: the tag names these very bytes, and comes back in `If-Match`
    (RFC 9110 §8.8.1). So does one whose body is read from a file.
    """
    body, headers = response.response, response.headers
    return (
        isinstance(body, DataBody)
        and len(body.data) >= MINIMUM
        and response.content_type in TYPES
        and "Content-Encoding" not in headers
        and not headers.get("ETag", "").startswith('"')
    )


def compress(response: Response, accepted: str) -> None:
    """Compresses the body in place, for a client that takes it.

    Params:
        accepted: the request's `Accept-Encoding`.
    """
    response.vary.add("Accept-Encoding")
    if "gzip" not in accepted or not parse_accept_header(accepted, Accept).quality("gzip"):
        return
    body = response.response
    assert isinstance(body, DataBody)
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    response.set_data(compressor.compress(body.data) + compressor.flush())
    response.headers["Content-Encoding"] = "gzip"
