"""The live panel as a role, and what else is said on a terminal: the banner and the receipt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict

import anyio
import structlog
from anyio.abc import TaskStatus
from rich.console import Console
from rich.live import Live
from rich.segment import Segments

from roles.events import DrainFinished, Emit, Event
from roles.logs import log_event
from roles.ops.console import Places, banner, receipt, render
from roles.ops.status import status
from roles.resources import Resources
from roles.role import RoleStatus
from schema.status import Status

REFRESH = 0.5
"""Seconds between two pictures."""

WINDOW = 5.0
"""Seconds over which rates are taken."""

log = structlog.get_logger(__name__)


class PanelRole:
    """Keeps the panel at the bottom of the terminal, with the logs scrolling above it, until the end of the drain.

    Params:
        console: what `roles.logs.configure` returned; an interactive one.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        console: Console,
        snapshot: Callable[[], tuple[RoleStatus, ...]],
        draining: Callable[[], bool],
    ) -> None:
        self._resources = resources
        self._console = console
        self._snapshot = snapshot
        self._draining = draining
        self._rates = Rates()

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Draws until it is asked to stop; then the panel is gone."""
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            self._console.show_cursor()  # whatever kills this process must not leave a terminal without its cursor
            task_status.started()
            while not stop.is_set():
                live.update(self._picture(), refresh=True)
                with anyio.move_on_after(REFRESH):
                    await stop.wait()

    def _picture(self) -> Segments:
        """The panel in its final form: it is drawn again below each log record, which must cost next to nothing."""
        now = status(self._resources, self._snapshot(), draining=self._draining())
        panel = render(now, rates=self._rates.observe(now), width=self._console.width)
        return Segments(self._console.render(panel, self._console.options))


class Rates:
    """How fast each role works, from the counts of the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def observe(self, status: Status) -> dict[str, float]:
        """Units of work that ended per second, by role, over the last `WINDOW` seconds."""
        ended = {role.name: role.counts.finished + role.counts.failed for role in status.roles}
        self._seen.append((status.uptime, ended))
        while len(self._seen) > 1 and self._seen[1][0] <= status.uptime - WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        elapsed = status.uptime - then
        return {name: (count - before.get(name, 0)) / elapsed for name, count in ended.items()} if elapsed > 0 else {}


def listener(console: Console | None) -> Emit:
    """The listener for the supervisor's events: logs, and the receipt as a table where there is a console."""

    def listen(event: Event) -> None:
        if console is not None and isinstance(event, DrainFinished):
            console.print(receipt(event))
        else:
            log_event(event)

    return listen


def announce(console: Console | None, places: Places) -> None:
    """Says what runs where, once everything is up."""
    if console is None:
        fields = {name: place for name, place in asdict(places).items() if place and name not in ("login", "publish")}
        log.info("ready", **fields)
    else:
        console.print(banner(places), soft_wrap=True)
