"""Every setting, with its default. `config.toml` says the same with a comment for each; a test compares the two.

Where the values come from is `schema.settings_sources`.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    model_validator,
)

from schema.duration import LONGEST, Duration, format_duration
from schema.rate import Rate, RateSetting

ROLES = ("api", "consume", "schedule")
MAX_PORT = 65535
EMBEDDED = "embedded"
"""The URL that asks for a private server, run as a child of this process (see `roles.embedded`)."""

IN_MEMORY = "mem://"
"""The URL of a cache in the memory of each process."""

LONGEST_WAIT = timedelta(milliseconds=2**31 - 1)
"""What PostgreSQL takes for a setting that is a time, the kernel for a socket's, and more than a thread may wait."""

LONGEST_HANDLER_TIMEOUT = timedelta(minutes=30)
"""RabbitMQ closes the channel of a consumer that keeps a message for longer (its `consumer_timeout`)."""


class Address(str):
    """`host:port`, with an IPv6 host in brackets."""

    __slots__ = ()

    @property
    def host(self) -> str:
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])


def _address(value: Any) -> Address:
    if not isinstance(value, str):
        raise ValueError("not host:port (try '127.0.0.1:8090')")  # noqa: TRY004 - pydantic reports ValueError
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise ValueError("not host:port (try '127.0.0.1:8090')")
    return Address(value)


def _names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _role(name: str) -> str:
    if name not in ROLES:
        nearest = get_close_matches(name, ROLES, n=1, cutoff=0)
        raise ValueError(f"unknown role {name!r}: did you mean {nearest[0]!r}? (the roles are {', '.join(ROLES)})")
    return name


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"names no role (the roles are {', '.join(ROLES)})")
    return tuple(dict.fromkeys(names))


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than zero")
    if value < timedelta(milliseconds=1):
        raise ValueError("must be 1ms or longer: some who are given it count in milliseconds, and zero is never")
    if value > LONGEST:
        raise ValueError(f"must be {format_duration(LONGEST)} or less")
    return value


def _countable(value: timedelta) -> timedelta:
    if value > LONGEST_WAIT:
        raise ValueError("must be 24d or shorter: who is given it counts milliseconds in 31 bits")
    return value


def _at_least_a_second(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1):
        raise ValueError("must be 1s or longer: it is renewed three times in so long")
    return value


def _at_least_an_hour(value: timedelta) -> timedelta:
    if value < timedelta(hours=1):
        raise ValueError("must be 1h or longer: what a job has missed is told from its rows")
    return value


def _parts(url: str) -> SplitResult:
    """The URL in parts, all of them empty unless it names a host, and a port only if it can be one."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        possible = parts.hostname and parts.port != 0 and not re.search(r"[\x00-\x20\x7f]", url)
    except ValueError:
        possible = False
    return parts if possible else urlsplit("")


def _http_url(value: str) -> str:
    parts = _parts(value)
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ValueError("not the base URL of an HTTP service (try 'https://example.org')")
    return value.rstrip("/")


def _document_url(value: str) -> str:
    """Some providers of tokens have a query in it, which a base URL cannot have."""
    if value and (_parts(value).scheme not in ("http", "https") or "#" in value):
        raise ValueError("not the URL of a document (try 'https://example.org/keys')")
    return value


def _within_consumer_timeout(value: timedelta) -> timedelta:
    if value >= LONGEST_HANDLER_TIMEOUT:
        raise ValueError("must be shorter than 30m, after which RabbitMQ closes the consumer's channel")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    try:
        if value.get_secret_value() != EMBEDDED:
            conninfo_to_dict(value.get_secret_value())
    except ProgrammingError:  # it quotes the URL, password and all
        raise ValueError("not a PostgreSQL URL (try 'postgresql://user:password@host:5432/database')") from None
    return value


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("must be of printable ASCII without spaces, to fit into a header")
    return value


def _cache_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text != IN_MEMORY and _parts(text).scheme not in ("redis", "rediss"):
        raise ValueError("not the URL of a cache (try 'mem://' or 'redis://user:password@host:6379/0')")
    return value


def _no_rate(value: Any) -> Any:
    return None if value == "" else value


def _written(rate: Rate | None) -> str:
    return "" if rate is None else str(rate)


def _origin(value: str) -> str:
    parts = _parts(value)
    is_one = parts.scheme in ("http", "https") and f"{parts.scheme}://{parts.netloc}" == value and "@" not in value
    if value != "*" and not is_one:
        raise ValueError("not an origin (try 'https://app.example.org', without a path, or '*' for all)")
    return value


def _amqp_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text != EMBEDDED:
        try:
            parts = urlsplit(text)
            valid = parts.scheme in {"amqp", "amqps"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("not an AMQP URL (try 'amqp://user:password@host:5672/vhost', with %40 for @ in a name)")
    return value


def _management_url(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        try:
            _http_url(value.get_secret_value())
        except ValueError:
            raise ValueError(
                "not the URL of RabbitMQ's management API (try 'http://user:password@host:15672')"
            ) from None
    return value


Bind = Annotated[Address, PlainValidator(_address), PlainSerializer(str, return_type=str)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Of signatures with a public key. One with a shared secret would let a public key be mistaken for the secret."""
RoleName = Annotated[str, AfterValidator(_role)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Wait = Annotated[PositiveDuration, AfterValidator(_countable)]


class Section(BaseModel):
    """A table of `config.toml`: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Database(Section):
    url: Annotated[SecretStr, AfterValidator(_database_url)] = SecretStr(EMBEDDED)
    migrate: bool = False
    pool_min_size: int = Field(2, ge=0)
    pool_max_size: int = Field(30, ge=1)
    pool_timeout: PositiveDuration = timedelta(seconds=2)
    max_waiting: int = Field(200, ge=0)
    connect_timeout: PositiveDuration = timedelta(seconds=5)
    statement_timeout: Wait = timedelta(seconds=30)
    idle_in_transaction_session_timeout: Wait = timedelta(seconds=60)
    client_connection_check_interval: Wait = timedelta(seconds=5)
    application_name: str = "rolecall"
    prepare_statements: bool = True

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.pool_min_size > self.pool_max_size:
            raise ValueError(f"pool_min_size {self.pool_min_size} is more than pool_max_size {self.pool_max_size}")
        return self


class Amqp(Section):
    url: Annotated[SecretStr, AfterValidator(_amqp_url)] = SecretStr(EMBEDDED)
    management_url: Annotated[SecretStr, AfterValidator(_management_url)] = SecretStr("")
    heartbeat: PositiveDuration = timedelta(seconds=10)
    timeout: PositiveDuration = timedelta(seconds=10)


class Api(Section):
    bind: Bind = Address("127.0.0.1:8090")
    server: Literal["hypercorn", "granian"] = "hypercorn"
    max_content_length: int = Field(1024 * 1024, ge=1)
    max_bodies_length: int = Field(64 * 1024 * 1024, ge=1)
    max_target_length: int = Field(8192, ge=1)
    max_headers_length: int = Field(16384, ge=1)
    headers_timeout: PositiveDuration = timedelta(seconds=10)
    request_timeout: PositiveDuration = timedelta(seconds=30)
    keep_alive_timeout: Wait = timedelta(seconds=75)
    idempotency_retention: PositiveDuration = timedelta(days=1)
    cursor_key: SecretStr = SecretStr("")
    docs: bool = False
    max_in_flight: int = Field(1000, ge=1)
    max_connections: int = Field(4000, ge=1)
    rate_limit: Annotated[RateSetting | None, BeforeValidator(_no_rate), PlainSerializer(_written)] = Rate(
        6000, timedelta(minutes=1)
    )
    trusted_proxies: int = Field(0, ge=0, le=10)
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_names)] = ()
    tls_certificate: str = ""
    tls_key: str = ""

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if bool(self.tls_certificate) is not bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together: set both or none")
        return self


class Cache(Section):
    url: Annotated[SecretStr, AfterValidator(_cache_url)] = SecretStr(IN_MEMORY)
    size: int = Field(10_000, ge=1)
    timeout: PositiveDuration = timedelta(milliseconds=200)
    rest: PositiveDuration = timedelta(seconds=5)


class Jwt(Section):
    issuer: str = ""
    audience: str = ""
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_names), Field(min_length=1)] = ("RS256", "ES256")
    scope_claim: str = "scope"
    leeway: Duration = timedelta(seconds=30)
    keys_lifetime: PositiveDuration = timedelta(minutes=10)
    keys_cooldown: PositiveDuration = timedelta(seconds=30)


class Auth(Section):
    mode: Literal["none", "api_key", "jwt"] = "none"
    allow_anonymous: bool = False
    cache: Duration = timedelta(seconds=10)
    jwt: Jwt = Jwt()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("issuer", "audience"):
            if self.mode == "jwt" and not getattr(self.jwt, name):
                raise ValueError(f'mode "jwt" needs auth.jwt.{name}')
        return self


class Ops(Section):
    bind: Bind = Address("127.0.0.1:8091")
    token: Annotated[SecretStr, AfterValidator(_token)] = SecretStr("")
    probe_timeout: PositiveDuration = timedelta(seconds=3)


class Consume(Section):
    handler_timeout: Annotated[PositiveDuration, AfterValidator(_within_consumer_timeout)] = timedelta(seconds=60)
    delivery_limit: int = Field(100, ge=1)
    inbox_retention: PositiveDuration = timedelta(days=14)
    archive: bool = True
    parked_retention: PositiveDuration = timedelta(days=90)
    give_back_after: PositiveDuration = timedelta(minutes=10)
    quarantine: PositiveDuration = timedelta(seconds=10)

    @model_validator(mode="after")
    def _held_not_too_long(self) -> Self:
        if self.handler_timeout + self.give_back_after >= LONGEST_HANDLER_TIMEOUT:
            raise ValueError(
                "handler_timeout and give_back_after together must be shorter than 30m, after which RabbitMQ closes "
                "the consumer's channel"
            )
        return self


class Schedule(Section):
    timeout: PositiveDuration = timedelta(seconds=60)
    long_timeout: PositiveDuration = timedelta(hours=1)
    grace: PositiveDuration = timedelta(minutes=1)
    backlog: int = Field(100, ge=1, le=1000)
    concurrency: int = Field(10, ge=1)
    lease: Annotated[PositiveDuration, AfterValidator(_at_least_a_second)] = timedelta(seconds=30)
    retention: Annotated[PositiveDuration, AfterValidator(_at_least_an_hour)] = timedelta(days=30)


class Relay(Section):
    poll_interval: PositiveDuration = timedelta(seconds=1)
    batch: int = Field(500, ge=1, le=10_000)
    backoff_max: PositiveDuration = timedelta(minutes=1)


class Supervisor(Section):
    start_timeout: PositiveDuration = timedelta(seconds=30)
    drain_delay: Duration = timedelta(0)
    drain_timeout: PositiveDuration = timedelta(seconds=25)
    backoff_initial: PositiveDuration = timedelta(seconds=0.5)
    backoff_max: PositiveDuration = timedelta(seconds=30)
    backoff_reset: PositiveDuration = timedelta(seconds=60)
    max_restarts: int = Field(0, ge=0)
    restart_window: PositiveDuration = timedelta(minutes=5)
    blocked_loop: Wait = timedelta(seconds=1)


class Client(Section):
    url: HttpUrl
    timeout: PositiveDuration = timedelta(seconds=5)
    connect_timeout: PositiveDuration = timedelta(seconds=2)
    attempts: int = Field(3, ge=1)
    backoff: PositiveDuration = timedelta(milliseconds=200)
    concurrency: int = Field(20, ge=1)
    circuit_failures: int = Field(5, ge=1)
    circuit_rest: PositiveDuration = timedelta(seconds=5)


class Timezone(Client):
    url: HttpUrl = "https://worldtimeapi.org"
    lifetime: Duration = timedelta(seconds=10)
    stale_for: Duration = timedelta(minutes=5)


class Jwks(Client):
    url: Annotated[str, AfterValidator(_document_url)] = ""


class Clients(Section):
    jwks: Jwks = Jwks()
    timezone: Timezone = Timezone()


class Embedded(Section):
    directory: Path = Path(".local")


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """All of them. Sections are tables in TOML, and `APP_<SECTION>__<KEY>` in the environment."""

    roles: Annotated[tuple[RoleName, ...], BeforeValidator(_names), AfterValidator(_unique)] = ROLES
    debug: bool = False
    console: Literal["auto", "rich", "plain", "json"] = "auto"
    log: Log = Log()
    api: Api = Api()
    auth: Auth = Auth()
    ops: Ops = Ops()
    cache: Cache = Cache()
    database: Database = Database()
    amqp: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Amqp] = {"example": Amqp()}
    consume: Consume = Consume()
    schedule: Schedule = Schedule()
    relay: Relay = Relay()
    supervisor: Supervisor = Supervisor()
    clients: Clients = Clients()
    embedded: Embedded = Embedded()

    @model_validator(mode="after")
    def _issuer(self) -> Self:
        if self.auth.mode == "jwt" and not self.clients.jwks.url:
            raise ValueError('auth.mode "jwt" needs clients.jwks.url, where the issuer publishes its keys')
        return self


current_settings: ContextVar[Settings] = ContextVar("current_settings")
"""Those of this process, for jobs that depend on them; set once, by the composition root."""
