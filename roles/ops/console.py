"""What people see on a terminal, as pure functions from values to Rich renderables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from json import dumps

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from roles.events import DrainFinished
from schema.settings import Address
from schema.status import RoleReport, Status

WIDEST = 110
"""Columns that the panel takes at most."""

LABEL = 20
"""Columns that the names of queues, jobs and roles get before they are cut."""

MARGIN = 3
"""Columns that stay free on the right: there a terminal echoes `^C`, which would wrap, and leave a line behind."""

_ROOMY, _WIDE = 70, 90
"""Columns from which on the panel has room for restarts, and for totals."""

_STATES = {
    "starting": "cyan",
    "running": "green",
    "backoff": "yellow",
    "draining": "magenta",
    "stopped": "dim",
    "failed": "bold red",
}


def render(status: Status, *, rates: Mapping[str, float], width: int) -> RenderableType:
    """The live panel: a row per role, what is wrong, the queues, the next ticks, the pool.

    Params:
        rates: units of work per second over the last seconds, by role.
        width: columns of the terminal; narrow ones get fewer columns.
    """
    problems = list(_problems(status))
    facts = Table.grid(padding=(0, 2))
    labels = [label for label, _ in (*problems, *_facts(status))]
    facts.add_column(no_wrap=True, style="dim", min_width=min(LABEL, max(map(len, labels), default=0)))
    facts.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for label, text in (*problems, *_facts(status)):
        facts.add_row(label, text)
    title = f"rolecall {status.version} · pid {status.pid} · up {short(status.uptime)}"
    return Panel(
        Group(_roles(status, rates, width), "", facts),
        title=f"{title} · draining" if status.draining else title,
        title_align="left",
        border_style="magenta" if status.draining else "yellow" if problems else "green",
        box=box.ROUNDED,
        width=min(width - MARGIN, WIDEST),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything is once the process is up: URLs, and command lines to copy."""

    api: str | None = None
    docs: str | None = None
    ops: str
    psql: str | None = None
    management: str | None = None
    """RabbitMQ's management page."""
    login: str | None = None
    """For that page. It is shown on terminals and never logged, like what it is a part of."""
    curl: str | None = None
    """Something to try on the API."""
    publish: str | None = None
    """And on the consumer; with the login."""


def places(
    addresses: Mapping[str, Address],
    *,
    docs: bool,
    tls: bool = False,
    psql: str | None = None,
    management: str | None = None,
    user: str | None = None,
    password: str | None = None,
) -> Places:
    """What runs where.

    Params:
        addresses: where the roles `ops` and, if it runs, `api` listen.
        docs: whether the API shows its documentation.
        tls: whether it speaks HTTPS.
        psql: and the rest: what is embedded says for itself where it is.
    """
    api = _url(addresses["api"], tls=tls) if "api" in addresses else None
    json = "-H 'content-type: application/json'"
    message = {"properties": {}, "routing_key": "example.main", "payload_encoding": "string"}
    body = dumps({**message, "payload": dumps({"name": "Grace Hopper"})})
    return Places(
        api=api,
        docs=f"{api}/docs" if api and docs else None,
        ops=f"{_url(addresses['ops'])}/status",
        psql=psql,
        management=management,
        login=f"{user} / {password}" if password else None,
        curl=f"""curl {json} -d '{{"name": "Ada Lovelace"}}' {api}/api/v1/students""" if api else None,
        publish=f"curl -u {user}:{password} {json} -d '{body}' {management}api/exchanges/%2F/example.exchange/publish"
        if password
        else None,
    )


def banner(places: Places) -> Text:
    """One line per place. To be printed with `soft_wrap=True`, so that it can be copied."""
    rows = {
        "API": places.api,
        "docs": places.docs,
        "ops": places.ops,
        "database": places.psql,
        "RabbitMQ": f"{places.management}  ({places.login})" if places.login else places.management,
        "try": places.curl,
        "and": places.publish,
    }
    text = Text()
    for label, place in rows.items():
        if place:
            text.append(f"{label:>10}  ", "dim").append(place, "bold cyan").append("\n")
    return text


def receipt(event: DrainFinished) -> Table:
    """What became of the work that was in flight when the drain began."""
    table = Table(title=f"drained in {event.took:.1f} s", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("role")
    for heading in ("in flight", "finished", "failed", "given back", "cut off"):
        table.add_column(heading, justify="right")
    for line in event.receipt:
        numbers = (line.in_flight, line.finished, line.failed, line.given_back)
        table.add_row(line.role, *map(str, numbers), _alarming(line.cut_off))
    return table


def short(seconds: float) -> str:
    """A duration in at most six characters: `0s`, `59s`, `3m12s`, `2h05m`, `4d03h`."""
    whole = max(0, int(seconds))
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{smaller}"
    return f"{whole}s"


def _roles(status: Status, rates: Mapping[str, float], width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("role", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("for", "per s", "in flight"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= _ROOMY:
        table.add_column("restarts", justify="right", no_wrap=True)
    if width >= _WIDE:
        table.add_column("done", justify="right", no_wrap=True)
        table.add_column("failed", justify="right", no_wrap=True)
    for role in status.roles:
        cells = list(_cells(role, rates.get(role.name, 0.0), (status.now - role.since).total_seconds()))
        table.add_row(*cells[: len(table.columns)])
    return table


def _cells(role: RoleReport, rate: float, age: float) -> Iterator[RenderableType]:
    works = role.counts.taken > 0
    yield Text(role.name, "bold")
    yield Text(f"● {role.state}", _STATES[role.state])
    yield short(age)
    yield f"{rate:.1f}" if works else ""
    yield str(role.counts.in_flight) if works else ""
    yield Text(str(role.restarts), "yellow" if role.restarts else "dim")
    yield str(role.counts.finished) if works else ""
    yield _alarming(role.counts.failed) if works else ""


def _problems(status: Status) -> Iterator[tuple[str, Text]]:
    for role in status.roles:
        if role.last_error and role.state != "running":
            yield role.name, Text(_one_line(role.last_error), "yellow")
    for consumer in status.consumers:
        if not consumer.subscribed:
            yield consumer.queue, Text(_one_line(consumer.reason or "not subscribed"), "yellow")
    for job in status.jobs:
        if job.last_error:
            yield job.name, Text(_one_line(job.last_error), "yellow")


def _facts(status: Status) -> Iterator[tuple[str, Text]]:
    queues = [f"{consumer.queue} {consumer.counts.in_flight} in flight" for consumer in status.consumers]
    if queues:
        parked = sum(consumer.parked for consumer in status.consumers)
        yield "queues", Text(" · ".join(queues) + (f" · {parked} parked" if parked else ""))
    ticks = sorted((job.next_at, job.name) for job in status.jobs if job.next_at)
    if ticks:
        yield "next", Text(_joined(f"{name} {short((at - status.now).total_seconds())}" for at, name in ticks))
    pool = status.pool
    busy = pool.size - pool.available
    yield "pool", Text(f"{busy} of {pool.max_size} connections busy · {pool.waiting} waiting")


def _joined(texts: Iterable[str]) -> str:
    return " · ".join(texts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _alarming(count: int) -> Text:
    return Text(str(count), "bold red" if count else "")


def _url(bind: Address, *, tls: bool = False) -> str:
    """Where a browser on this machine finds it; an address that means all interfaces is none to go to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind.host, bind.host)  # noqa: S104 - not binding
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{bind.port}" if ":" in host else f"{scheme}://{host}:{bind.port}"
