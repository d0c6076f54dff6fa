"""What is sent, and what is answered: one line for each attack that consists of bytes.

Each is sent over a connection of its own, which the server has to end. `/smuggled` is what no request may get to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STUDENTS = b"/api/v1/students"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""A request that has nothing wrong with it, and is answered with 404."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Params:
    sends: in parts, with a moment between them.
    answers: the statuses of the replies, in order; none if the connection is just closed.
    differs: the same for servers that answer otherwise.
    half_close: whether the client then says that it will send no more.
    """

    name: str
    sends: tuple[bytes, ...]
    answers: tuple[int, ...]
    differs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    half_close: bool = False

    def expected(self, server: str) -> tuple[int, ...]:
        return self.differs.get(server, self.answers)


def _attack(
    name: str,
    *sends: bytes,
    answers: int | tuple[int, ...] = (),
    half_close: bool = False,
    **differs: int | tuple[int, ...],
) -> Attack:
    return Attack(
        name=name,
        sends=sends,
        answers=_statuses(answers),
        differs={server: _statuses(given) for server, given in differs.items()},
        half_close=half_close,
    )


def _statuses(given: int | tuple[int, ...]) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else given


def get(target: bytes = b"/last", *headers: bytes) -> bytes:
    return b"\r\n".join((b"GET %s HTTP/1.1" % target, b"Host: x", b"Connection: close", *headers, b"", b""))


def post(*headers: bytes, body: bytes = b"") -> bytes:
    """Its connection is kept: what is smuggled would be answered."""
    return b"\r\n".join((b"POST %s HTTP/1.1" % STUDENTS, b"Host: x", *headers, b"", body))


def chunked(*chunks: bytes, ending: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + ending


MIB = 1024 * 1024
CHUNKED = b"Transfer-Encoding: chunked"
JSON = b"Content-Type: application/json"
CRLF_NAME = b'{"name": "a\\r\\nSet-Cookie: evil=1"}'

OVERSIZED = (
    _attack("a target at the limit", get(b"/" + b"a" * 8191), answers=404),
    _attack("a target over it", get(b"/" + b"a" * 8192), answers=414),
    _attack("a target without an end", b"GET /" + b"a" * MIB, answers=414, granian=431),
    _attack("a query over it", get(b"/?" + b"a" * 8191), answers=414),
    _attack("a method without an end", b"G" * MIB, answers=414, granian=431),
    _attack("one header over the limit", get(b"/last", b"X: " + b"a" * 16384), answers=431),
    _attack("one header without an end", b"GET / HTTP/1.1\r\nX: " + b"a" * MIB, answers=431),
    _attack("the name of a header without an end", b"GET / HTTP/1.1\r\n" + b"a" * MIB, answers=431),
    _attack("many headers", get(b"/last", *(b"X-%d: a" % n for n in range(2000))), answers=431),
    _attack("headers without an end", b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200_000, answers=431),
    _attack("a huge token", get(STUDENTS, b"Authorization: Bearer " + b"a" * 16000), answers=200),
    _attack("a body that announces absurdly much", post(b"Content-Length: " + b"9" * 21), answers=400),
    _attack(
        "a body that is too long",
        post(b"Content-Length: %d" % (2 * MIB), body=b"a" * 2 * MIB) + LAST,
        answers=(413, 404),
    ),
    _attack("chunks that are too long", post(CHUNKED, body=chunked(b"a" * MIB, b"a")) + LAST, answers=(413, 404)),
    _attack("a chunk extension without an end", post(CHUNKED, body=b"1;" + b"a" * MIB), answers=431, granian=400),
    _attack("a trailer without an end", post(CHUNKED, body=b"0\r\nX: " + b"a" * MIB), answers=431, granian=400),
    _attack(
        "trailers without an end", post(CHUNKED, body=b"0\r\n" + b"X: a\r\n" * 200_000), answers=431, granian=400
    ),
)

SMUGGLING = (
    _attack(
        "a length and chunks",
        post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
        answers=400,
        granian=415,
    ),
    _attack(
        "chunks and a length",
        post(CHUNKED, b"Content-Length: %d" % (len(SMUGGLED) + 5), body=b"0\r\n\r\n" + SMUGGLED),
        answers=400,
        granian=415,
    ),
    _attack("two lengths", post(b"Content-Length: 0", b"Content-Length: 40", body=SMUGGLED), answers=400),
    _attack("two lengths in one", post(b"Content-Length: 0, 40", body=SMUGGLED), answers=400),
    _attack("a length with a sign", post(b"Content-Length: +40", body=SMUGGLED), answers=400),
    _attack("a negative length", post(b"Content-Length: -1", body=SMUGGLED), answers=400),
    _attack("a length in hexadecimal", post(b"Content-Length: 0x28", body=SMUGGLED), answers=400),
    _attack("a length with a space in it", post(b"Content-Length: 4 0", body=SMUGGLED), answers=400),
    _attack("a length with an underscore", post(b"Content-Length: 4_0", body=SMUGGLED), answers=400),
    _attack("an empty length", post(b"Content-Length:", body=SMUGGLED), answers=400),
    _attack("a length with a space before the colon", post(b"Content-Length : 40", body=SMUGGLED), answers=400),
    _attack(
        "a coding that is none",
        post(b"Transfer-Encoding: xchunked", body=chunked() + SMUGGLED),
        answers=501,
        granian=400,
    ),
    _attack("a second coding", post(b"Transfer-Encoding: gzip, chunked", body=chunked() + SMUGGLED), answers=501),
    _attack(
        "chunked, and not at last", post(b"Transfer-Encoding: chunked, x", body=SMUGGLED), answers=501, granian=400
    ),
    _attack("two codings", post(CHUNKED, b"Transfer-Encoding: identity", body=SMUGGLED), answers=501, granian=400),
    _attack("the same coding twice", post(CHUNKED, CHUNKED, body=chunked() + SMUGGLED), answers=501),
    _attack("a coding with a tab", post(b"Transfer-Encoding:\x0bchunked", body=SMUGGLED), answers=400),
    _attack("a coding in quotes", post(b'Transfer-Encoding: "chunked"', body=SMUGGLED), answers=501, granian=400),
    _attack(
        "a coding with a space before the colon", post(b"Transfer-Encoding : chunked", body=SMUGGLED), answers=400
    ),
    _attack("a coding after a bare CR", post(b"X: a\rTransfer-Encoding: chunked", body=SMUGGLED), answers=400),
    _attack(
        "a coding on a line that continues another", post(b" Transfer-Encoding: chunked", body=SMUGGLED), answers=400
    ),
    _attack("a coding in HTTP/1.0", post(CHUNKED, body=SMUGGLED).replace(b"1.1", b"1.0", 1), answers=400),
    _attack("a chunk size with a sign", post(CHUNKED, body=b"+5\r\naaaaa\r\n0\r\n\r\n" + SMUGGLED), answers=400),
    _attack("a chunk size with a prefix", post(CHUNKED, body=b"0x5\r\naaaaa\r\n0\r\n\r\n" + SMUGGLED), answers=400),
    _attack("a negative chunk size", post(CHUNKED, body=b"-5\r\naaaaa\r\n0\r\n\r\n" + SMUGGLED), answers=400),
    _attack("a chunk size with a space before it", post(CHUNKED, body=b" 5\r\naaaaa\r\n0\r\n\r\n"), answers=400),
    _attack("a chunk size that overflows", post(CHUNKED, body=b"1" + b"0" * 20 + b"\r\na"), answers=400),
    _attack("a chunk size that is none", post(CHUNKED, body=b"x\r\n" + SMUGGLED), answers=400),
    _attack(
        "a chunk that is longer than it says", post(CHUNKED, body=b"1\r\naa\r\n0\r\n\r\n" + SMUGGLED), answers=400
    ),
    _attack("chunks that end in bare LF", post(CHUNKED, body=b"1\na\n0\n\n" + SMUGGLED), answers=400),
    _attack("a chunk without its end", post(CHUNKED, body=b"1\r\na0\r\n\r\n" + SMUGGLED), answers=400),
    _attack("an upgrade to HTTP/2", get(b"/last", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), answers=404),
    _attack(
        "HTTP/2 at once",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        answers=505,
        granian=(),
    ),
)

INJECTION = (
    _attack("a NUL in a header", get(b"/last", b"X-Request-Id: a\x00b"), answers=400),
    _attack("a bare CR in a header", get(b"/last", b"X-Request-Id: a\rSet-Cookie: evil=1"), answers=400),
    _attack("a NUL in the name of a header", get(b"/last", b"X\x00: a"), answers=400),
    _attack("a space in the name of a header", get(b"/last", b"X Y: a"), answers=400),
    _attack("a header without a name", get(b"/last", b": a"), answers=400),
    _attack("a header without a colon", get(b"/last", b"Set-Cookie"), answers=400),
    _attack(
        "a request id that is a header", get(b"/last", b"X-Request-Id: a%0d%0aSet-Cookie:%20evil=1"), answers=404
    ),
    _attack("a request id beyond ASCII", get(b"/last", b"X-Request-Id: a\xff"), answers=404),
    _attack("a header that continues", get(b"/last", b"X-Request-Id: a\r\n\tSet-Cookie: evil=1"), answers=400),
    _attack("two hosts", get(b"/last", b"Host: y"), answers=400),
    _attack("no host", b"GET /last HTTP/1.1\r\n\r\n", answers=400),
    _attack("two credentials", get(STUDENTS, b"Authorization: Bearer a", b"authorization: Bearer b"), answers=400),
    _attack("CR and LF in the path", get(b"/a%0d%0aSet-Cookie:%20evil=1"), answers=404),
    _attack("CR and LF in an id", get(STUDENTS + b"/1%0d%0aSet-Cookie:%20evil=1"), answers=404),
    _attack("a bare CR in the path", get(b"/a\rSet-Cookie:evil=1"), answers=400),
    _attack("a NUL in the path", get(b"/a\x00"), answers=400),
    _attack("an escaped NUL in the path", get(b"/a%00"), answers=404),
    _attack("bytes that are no UTF-8 in the path", get(b"/%ff%fe"), answers=404),
    _attack("bytes beyond ASCII in the path", get(b"/\xff"), answers=400),
    _attack("CR and LF in the query", get(STUDENTS + b"?limit=1&name=A%0d%0aSet-Cookie:%20evil=1"), answers=200),
    _attack("CR and LF in a query that is repeated", get(STUDENTS + b"?limit=1&%0d%0aSet-Cookie:a=1"), answers=422),
    _attack("a NUL in the query", get(STUDENTS + b"?name=%00"), answers=422),
    _attack(
        "a page that is an origin", get(STUDENTS, b"Origin: https://evil%0d%0aSet-Cookie:%20evil=1"), answers=200
    ),
    _attack(
        "a key with CR and LF",
        post(JSON, b"Idempotency-Key: a%0d%0ab", b"Content-Length: 0"),
        LAST,
        answers=(400, 404),
    ),
    _attack(
        "CR and LF in what is stored",
        post(JSON, b"Content-Length: %d" % len(CRLF_NAME), body=CRLF_NAME),
        LAST,
        answers=(201, 404),
    ),
)

GARBAGE = (
    _attack("bytes that are no HTTP", bytes(range(256)) * 4, answers=400),
    _attack("the hello of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), answers=400),
    _attack("the greeting of SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", answers=400),
    _attack("HTTP/0.9", b"GET /last\r\n\r\n", answers=400),
    _attack("HTTP/1.0", b"GET /last HTTP/1.0\r\n\r\n", answers=404),
    _attack(
        "HTTP/1.0 that asks to be kept",
        b"GET /last HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        LAST,
        answers=404,
        granian=(404, 404),
    ),
    _attack("HTTP/1.2", get().replace(b"1.1", b"1.2"), answers=505, granian=400),
    _attack("HTTP/3.0", get().replace(b"1.1", b"3.0"), answers=505, granian=400),
    _attack("HTTP in lower case", get().replace(b"HTTP", b"http"), answers=400),
    _attack("a version that is none", get().replace(b"1.1", b"1.1.1"), answers=400),
    _attack("two spaces in the first line", get().replace(b"GET ", b"GET  "), answers=400),
    _attack("an empty line before a request", b"\r\n" + get(), answers=400, granian=404),
    _attack("a method that nobody knows", get().replace(b"GET", b"BREW"), answers=404),
    _attack("a method on a path that has others", get(STUDENTS).replace(b"GET", b"BREW"), answers=405),
    _attack("a method that is none", get().replace(b"GET", b"G(T"), answers=400),
    _attack("a tunnel", get(b"evil.example:443").replace(b"GET", b"CONNECT"), answers=404),
    _attack("a target that is no path", get(b"last"), answers=404),
    _attack("a target that is a URL", get(b"http://evil.example/last"), answers=404),
    _attack("a target that is no URL", get(b"http://["), answers=400),
    _attack("the target of a whole server", get(b"*").replace(b"GET", b"OPTIONS"), answers=404),
    _attack("a way out of the directory", get(b"/docs/docs/../../../../etc/passwd"), answers=404),
    _attack("an escaped way out of the directory", get(b"/docs/docs/..%2f..%2f..%2fconfig.toml"), answers=404),
    _attack("a websocket", get(b"/last", b"Upgrade: websocket").replace(b"close", b"close, upgrade"), answers=404),
    _attack("an expectation that nobody has", get(b"/last", b"Expect: 200-ok"), answers=404),
)

CUT_SHORT = (
    _attack("nothing", half_close=True),
    _attack("half a first line", b"GET /la", half_close=True),
    _attack("half a header", b"GET /last HTTP/1.1\r\nHos", half_close=True),
    _attack("half a body", post(b"Content-Length: 10", body=b"half"), half_close=True, granian=400),
    _attack("half a chunk", post(CHUNKED, body=b"a\r\nhalf"), half_close=True, granian=400),
)

PIPELINED = (
    _attack(
        "three requests at once", get(b"/1").replace(b"Connection: close\r\n", b"") * 2 + LAST, answers=(404,) * 3
    ),
    _attack(
        "requests with bodies at once",
        post(JSON, b"Content-Length: 2", body=b"{}") + post(JSON, CHUNKED, body=chunked(b"[", b"]")) + LAST,
        answers=(422, 422, 404),
    ),
    _attack("what comes after the last request", LAST + SMUGGLED, answers=404),
    _attack("a request behind one that is none", b"NONSENSE\r\n\r\n" + SMUGGLED, answers=400),
    _attack(
        "a request that is none behind another", post(b"Content-Length: 0"), b"NONSENSE\r\n\r\n", answers=(415, 400)
    ),
)

ATTACKS = (*OVERSIZED, *SMUGGLING, *INJECTION, *GARBAGE, *CUT_SHORT, *PIPELINED)
