"""What people see: complete at every width, and gone from the terminal when the process is."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from rich.console import Console, RenderableType

from db.pool import create_pool
from docs.console_picture import STATUS
from roles.events import DrainFinished, DrainStarted, ReceiptLine
from roles.ops.console import Places, banner, places, receipt, render, short
from roles.ops.panel import PanelRole, Rates, announce, listener
from roles.resources import Resources
from schema.settings import Address, Settings
from schema.status import Counts
from tests.ops.support import role

ROOT = Path(__file__).parents[2]
RATES = {"api": 212.4}


def drawn(renderable: RenderableType, width: int, *, soft_wrap: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable, soft_wrap=soft_wrap)
    return [text.rstrip() for text in capture.get().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_panel_tells_the_essentials_at_every_width(width: int) -> None:
    lines = drawn(render(STATUS, rates=RATES, width=width), width)

    assert max(map(len, lines)) <= width
    rows = {words[1]: words for text in lines if len(words := text.split()) > 2}
    assert {each.name for each in STATUS.roles} <= rows.keys()
    assert rows["api"][3:7] == ["running", "3m12s", "212.4", "6"]
    assert rows["example.main"][2:] == ["broker", "example:", "connection", "refused", "│"]
    assert rows["next"][2:4] == ["rename_students", "12s"]
    assert rows["pool"][2:5] == ["6", "of", "20"]


@pytest.mark.parametrize(("width", "columns"), [(60, 5), (80, 6), (140, 8)])
def test_a_wider_terminal_shows_more(width: int, columns: int) -> None:
    lines = drawn(render(STATUS, rates=RATES, width=width), width)
    headings = {"role", "state", "for", "per s", "in flight", "restarts", "done", "failed"}
    assert sum(heading in lines[1] for heading in headings) == columns


def test_the_panel_survives_a_terminal_of_twenty_columns_and_odd_texts() -> None:
    failed = STATUS.roles[0].model_copy(update={"state": "failed", "last_error": "[bold]no[/markup]\nof ours"})
    odd = STATUS.model_copy(update={"roles": [failed], "draining": True})
    assert drawn(render(odd, rates={}, width=20), 20)
    assert any("[bold]no[/markup] of ours" in text for text in drawn(render(odd, rates={}, width=80), 80))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.9, "0s"), (59.9, "59s"), (192, "3m12s"), (7500, "2h05m"), (356_400, "4d03h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert short(seconds) == text


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = Rates()

    def observe(uptime: float, done: int) -> float | None:
        done_so_far = STATUS.roles[5].model_copy(
            update={"counts": Counts(taken=done, in_flight=0, finished=done, failed=0, given_back=0)}
        )
        return rates.observe(STATUS.model_copy(update={"uptime": uptime, "roles": [done_so_far]})).get("api")

    assert observe(0, 1000) is None
    assert observe(1, 1100) == 100
    assert observe(4, 1400) == 100
    assert observe(6, 1400) == 60
    assert observe(20, 1400) == 0


def test_the_banner_names_every_place_and_keeps_each_on_a_line() -> None:
    everything = places(
        {"api": Address("0.0.0.0:8090"), "ops": Address("[::1]:8091")},
        docs=True,
        psql="psql -h /run app",
        management="http://127.0.0.1:15672/",
        user="me",
        password="secret",
    )

    lines = dict(text.strip().split(maxsplit=1) for text in drawn(banner(everything), 40, soft_wrap=True) if text)

    assert lines["API"] == "http://127.0.0.1:8090"
    assert lines["docs"] == "http://127.0.0.1:8090/docs"
    assert lines["ops"] == "http://[::1]:8091/status"
    assert lines["database"] == "psql -h /run app"
    assert lines["RabbitMQ"] == "http://127.0.0.1:15672/  (me / secret)"
    assert lines["try"].startswith("curl ")
    assert lines["and"].startswith("curl -u me:secret ")
    assert lines["and"].endswith(" http://127.0.0.1:15672/api/exchanges/%2F/example.exchange/publish")
    assert lines["try"].endswith("http://127.0.0.1:8090/api/v1/students")


def test_the_banner_names_only_what_runs() -> None:
    lines = drawn(banner(places({"ops": Address("127.0.0.1:8091")}, docs=False)), 80)
    assert [text.split()[0] for text in lines if text] == ["ops"]


RECEIPT = DrainFinished(1.25, (ReceiptLine("api", 3, 3, 0, 0, 0), ReceiptLine("consume", 10, 7, 1, 1, 1)))


def test_the_receipt_is_a_table_by_role() -> None:
    rows = {words[0]: words[1:] for text in drawn(receipt(RECEIPT), 80) if (words := text.split())}
    assert rows["api"] == ["3", "3", "0", "0", "0"]
    assert rows["consume"] == ["10", "7", "1", "1", "1"]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    events: list[object] = []
    monkeypatch.setattr("roles.ops.panel.log_event", events.append)
    return events


def test_with_a_console_the_receipt_is_shown_and_the_rest_logged(logged: list[object]) -> None:
    console = Console(file=io.StringIO(), width=80)
    other = DrainStarted("SIGTERM", 25)
    with console.capture() as capture:
        listener(console)(RECEIPT)
        listener(console)(other)
    assert "given back" in capture.get()
    assert logged == [other]


def test_without_a_console_all_is_logged(logged: list[object]) -> None:
    listener(None)(RECEIPT)
    assert logged == [RECEIPT]


def test_without_a_console_the_banner_is_a_record_without_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Mapping[str, object]]] = []

    class Log:
        def info(self, event: str, **fields: object) -> None:
            seen.append((event, fields))

    monkeypatch.setattr("roles.ops.panel.log", Log())
    announce(None, Places(ops="http://127.0.0.1:1", login="me / secret", publish="curl -u me:secret"))
    assert seen == [("ready", {"ops": "http://127.0.0.1:1"})]


def test_with_a_console_the_banner_is_printed() -> None:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        announce(console, Places(ops="http://127.0.0.1:1"))
    assert "http://127.0.0.1:1" in capture.get()


@pytest.mark.anyio
async def test_the_panel_role_draws_until_it_is_asked_to_stop() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, force_interactive=True, width=80, color_system=None)
    settings = Settings()
    pool = create_pool("postgresql://127.0.0.1:1/none", settings.database)
    resources = Resources(settings=settings, pool=pool, amqp_urls={})
    roles = [role("first")]
    panel = PanelRole(resources, console=console, snapshot=lambda: tuple(roles), draining=lambda: False)
    stop = anyio.Event()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            await group.start(lambda *, task_status: panel.run(task_status=task_status, stop=stop))
            roles.append(role("second"))
            while "second" not in screen.getvalue():  # noqa: ASYNC110 - there is no event for a picture
                await anyio.sleep(0.01)
            stop.set()
    assert "first" in screen.getvalue()


ON_A_TERMINAL = """
    import sys
    import anyio, structlog
    from db.pool import create_pool
    from roles.logs import choose_mode, configure
    from roles.ops.panel import PanelRole
    from roles.resources import Resources
    from schema.settings import Settings
    from tests.ops.support import role

    async def main():
        console = configure(choose_mode("auto", sys.stdout))
        assert console.is_interactive
        settings = Settings()
        pool = create_pool("postgresql://127.0.0.1:1/none", settings.database)
        resources = Resources(settings=settings, pool=pool, amqp_urls={})
        stop = anyio.Event()
        panel = PanelRole(resources, console=console, snapshot=lambda: (role("api"),), draining=lambda: False)
        async with anyio.create_task_group() as group:
            await group.start(lambda *, task_status: panel.run(task_status=task_status, stop=stop))
            for number in range(3):
                structlog.get_logger("x").info("above the panel", number=number)
                await anyio.sleep(0.6)
            print("printed")
            stop.set()
        console.print("the end")

    anyio.run(main, backend_options={"use_uvloop": True})
"""


def test_on_a_terminal_the_panel_stays_below_the_logs_and_leaves_no_trace() -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    code = textwrap.dedent(ON_A_TERMINAL)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=child, stderr=child, env=environment) as it:
        os.close(child)
        written = _read_all(parent)
    assert it.returncode == 0, written
    screen = Screen()
    screen.feed(written)
    lines = [text.rstrip() for text in screen.lines if text.strip()]
    assert [text.split()[2:6] for text in lines[:3]] == [["above", "the", "panel", f"number={n}"] for n in range(3)]
    assert lines[3:] == ["printed", "the end"]
    assert written.count("rolecall 0.1.0") >= 3
    assert written.rfind("\x1b[?25l") < written.rfind("\x1b[?25h")


def _read_all(fd: int) -> str:
    """All that is written to a terminal until nobody has it open any more."""
    data = b""
    deadline = time.monotonic() + 30
    while select.select([fd], [], [], deadline - time.monotonic())[0]:
        try:
            data += os.read(fd, 65_536)
        except OSError:  # Linux's way of saying end of file
            break
    os.close(fd)
    return data.decode()


class Screen:
    """As much of a terminal as Rich's Live uses: it moves up, erases lines, and writes."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = 0

    def feed(self, text: str) -> None:
        for escape, plain in re.findall(r"\x1b\[([?\d;]*[A-Za-z])|([^\x1b]+)", text):
            if escape.endswith("A"):
                self.row -= int(escape[:-1] or 1)
            elif escape == "2K":
                self.lines[self.row] = ""
            for part in re.split(r"(\n)", plain.replace("\r", "")):
                if part == "\n":
                    self.row += 1
                    self.lines += [""] * (self.row + 1 - len(self.lines))
                else:
                    self.lines[self.row] += part
