"""`Service`: one other service, called over the shared HTTP client, with retries and deadlines."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

import anyio
import httpx
import structlog
from pydantic import BaseModel, ValidationError

from clients.circuit import Circuit
from clients.errors import UpstreamError, UpstreamInvalid, UpstreamTimeout, UpstreamUnavailable
from clients.http import printable
from schema.duration import format_duration
from schema.settings import Client

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that may be repeated (RFC 9110 §9.2.2)."""

PASSING = frozenset({502, 503, 504})
"""Statuses of a trouble that may have passed a moment later."""

LONGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of a body, decompressed: a service that has gone wrong is not to take all of our memory."""

_OF_THE_TRANSFER = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
"""Headers that say nothing of a body that is here."""

Model = TypeVar("Model", bound=BaseModel)

log = structlog.get_logger(__name__)


def path(*segments: str) -> str:
    """The path of `segments`, each quoted, so that none can add a step of its own.

    Raises:
        ValueError: a segment is empty, `.` or `..`, which no quoting keeps from being a step.
    """
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(f"{segment!r} cannot be a segment of a path")
    return "".join("/" + quote(segment, safe="") for segment in segments)


@dataclass(frozen=True, slots=True)
class Service:
    """Another service: its name for messages, how to call it, and the client to call it with.

    At most `concurrency` calls are under way at a time, so that a slow service holds up no more than those, and one
    that fails again and again is left alone for a while (see `clients.circuit`).
    """

    name: str
    settings: Client
    http: httpx.AsyncClient
    circuit: Circuit = field(init=False, repr=False, compare=False)
    turns: anyio.CapacityLimiter = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        settings = self.settings
        circuit = Circuit(self.name, failures=settings.circuit_failures, rest=settings.circuit_rest)
        object.__setattr__(self, "circuit", circuit)  # the dataclass is frozen, and these belong to it
        object.__setattr__(self, "turns", anyio.CapacityLimiter(settings.concurrency))

    async def call(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None
    ) -> httpx.Response:
        """The service's answer, whatever it is below 500.

        A call takes no longer than `timeout`, its repetitions and the wait for its turn included. A failed connection
        and the statuses 502, 503 and 504 are tried again, `attempts` times in all, if the method is idempotent and
        time is left: after a pause that doubles and is shortened by chance, or after the service's own `Retry-After`
        if that is longer.

        Raises:
            UpstreamUnavailable: it could not be reached, answered 5xx, or is left alone after too many failures.
            UpstreamTimeout: it did not answer in time.
            UpstreamInvalid: what it answered is not HTTP as we know it, or longer than `LONGEST_ANSWER`.
        """
        request = self.http.build_request(
            method,
            self.settings.url + path,
            params=params,
            json=json,
            timeout=httpx.Timeout(None, connect=self.settings.connect_timeout.total_seconds()),
        )
        with self.circuit.watching():
            try:
                with anyio.fail_after(self.settings.timeout.total_seconds()):
                    async with self.turns:
                        return await self._attempts(request)
            except TimeoutError:
                raise UpstreamTimeout(
                    f"{self._place(request)}: no answer in {format_duration(self.settings.timeout)}"
                ) from None

    def decode(self, response: httpx.Response, model: type[Model]) -> Model:
        """The body of a successful answer, as a `model`.

        Raises:
            UpstreamInvalid: it is not one; or the answer was no success.
        """
        place = self._place(response.request)
        if not response.is_success:
            raise UpstreamInvalid(f"{place}: answered {response.status_code}")
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(map(str, first["loc"])) or "its body"
            raise UpstreamInvalid(f"{place}: no {model.__name__}: {field}: {first['msg']}") from None

    async def _attempts(self, request: httpx.Request) -> httpx.Response:
        pause = self.settings.backoff.total_seconds()
        for attempt in range(1, self.settings.attempts + 1):
            wait = pause * 2 ** (attempt - 1) * random.random()  # noqa: S311 - jitter, not a secret
            try:
                response = await self._whole(request)
            except httpx.TransportError as error:
                failure = self._failure(request, error)
            except httpx.HTTPError as error:
                raise UpstreamInvalid(f"{self._place(request)}: {error}") from error
            else:
                if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    return response
                failure = UpstreamUnavailable(f"{self._place(request)}: answered {response.status_code}")
                if response.status_code not in PASSING:
                    raise failure
                wait = max(wait, _retry_after(response))
            out_of_time = anyio.current_time() + wait >= anyio.current_effective_deadline()
            if attempt == self.settings.attempts or request.method not in IDEMPOTENT or out_of_time:
                raise failure
            log.info("upstream call repeated", service=self.name, attempt=attempt, wait=round(wait, 3), error=failure)
            await anyio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _whole(self, request: httpx.Request) -> httpx.Response:
        """One attempt's answer with its body, which is decompressed as it comes."""
        async with aclosing(await self.http.send(request, stream=True)) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LONGEST_ANSWER:
                    raise UpstreamInvalid(f"{self._place(request)}: the answer is longer than {LONGEST_ANSWER} bytes")
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_TRANSFER]
        return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=request)

    def _failure(self, request: httpx.Request, error: httpx.TransportError) -> UpstreamError:
        kind = UpstreamTimeout if isinstance(error, httpx.TimeoutException) else UpstreamUnavailable
        return kind(f"{self._place(request)}: {str(error) or type(error).__name__}")

    def _place(self, request: httpx.Request) -> str:
        return f"{self.name} service: {request.method} {printable(request.url)}"


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service wants to be left alone for (RFC 9110 §10.2.3); 0 if it does not say."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the year may have any number of digits
        return 0.0
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else 0.0
