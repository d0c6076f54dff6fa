"""Logs: one shape in every mode, whoever logs; no secrets; no harm to the process when nobody reads."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from anyio.lowlevel import checkpoint
from structlog.contextvars import bound_contextvars

from roles.events import (
    DrainFinished,
    DrainStarted,
    Event,
    Failure,
    LoopBlocked,
    ReceiptLine,
    RoleFailed,
    RoleStarted,
    RoleStarting,
    RoleStopped,
    RoleWaiting,
)
from roles.logs import TOGETHER, Mode, choose_mode, configure, log_event
from roles.outlet import LIMIT, Outlet

HEAD = ["timestamp", "level", "logger", "event"]
ROOT = Path(__file__).parent.parent

log = structlog.get_logger("tests.logs")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What `configure` changes is the whole process's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning
    yield
    sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(text) for text in stream.getvalue().splitlines()]


def test_ours_and_the_standard_librarys_records_have_one_shape(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    log.info("message parked", queue="example.main", attempt=3)
    logging.getLogger("hypercorn.error").warning("took %s", "long")

    ours, theirs = records(stream)
    assert list(ours)[:4] == list(theirs)[:4] == HEAD
    assert ours | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "logger": "tests.logs",
        "event": "message parked",
        "queue": "example.main",
        "attempt": 3,
    }
    assert (theirs["level"], theirs["logger"], theirs["event"]) == ("warning", "hypercorn.error", "took long")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ours["timestamp"])


def test_what_the_context_has_bound_is_in_every_record_made_there(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    with bound_contextvars(role="consume", message_id="m1"):
        log.info("ours")
        logging.getLogger("aiormq.channel").warning("theirs")
    log.info("outside")

    ours, theirs, outside = records(stream)
    assert (ours["role"], ours["message_id"]) == (theirs["role"], theirs["message_id"]) == ("consume", "m1")
    assert "role" not in outside


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "theirs"])
def test_who_asks_for_the_stack_gets_it_up_to_the_call(stream: io.StringIO, theirs: bool) -> None:
    configure("json", stream=stream)
    logger: Any = logging.getLogger(f"foreign.{stream!r}") if theirs else log

    logger.info("here", stack_info=True)
    logger.info("there")

    here, there = records(stream)
    assert 'logger.info("here", stack_info=True)' in here["stack"].splitlines()[-1]
    assert "stack" not in there


@pytest.mark.anyio
async def test_the_records_of_a_turn_are_written_at_its_end_with_what_was_bound(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    with bound_contextvars(request_id="r1"):
        log.info("first")
    log.info("second")
    at_once = stream.getvalue()
    await checkpoint()

    first, second = records(stream)
    assert at_once == ""
    assert (first["event"], first["request_id"]) == ("first", "r1")
    assert second["event"] == "second"
    assert "request_id" not in second


@pytest.mark.anyio
async def test_a_warning_does_not_wait_and_overtakes_nothing(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    log.info("before")
    log.warning("now")

    assert [record["event"] for record in records(stream)] == ["before", "now"]


@pytest.mark.anyio
async def test_what_could_change_is_written_as_it_was(stream: io.StringIO) -> None:
    configure("json", stream=stream)
    queues = ["a"]

    log.info("ours", queues=queues)
    logging.getLogger("foreign").info("theirs: %s", queues)
    queues.append("b")
    await checkpoint()

    ours, theirs = records(stream)
    assert ours["queues"] == ["a"]
    assert theirs["event"] == "theirs: ['a']"


@pytest.mark.anyio
async def test_a_turn_without_an_end_shows_what_was_logged_in_it(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    for number in range(TOGETHER):
        log.info("again", number=number)

    assert len(records(stream)) == TOGETHER


@pytest.mark.parametrize("logger", [log, logging.getLogger("foreign")], ids=["ours", "theirs"])
def test_an_exception_is_one_string_on_one_line_of_json(stream: io.StringIO, logger: Any) -> None:
    configure("json", stream=stream)

    try:
        raise ExceptionGroup("several", [ValueError("first\nsecond line"), OSError("x")])
    except ExceptionGroup:
        logger.exception("failed\nbadly")

    (record,) = records(stream)
    assert record["level"] == "error"
    assert record["event"] == "failed\nbadly"
    assert "Traceback" in record["exception"]
    assert "second line" in record["exception"]


@pytest.mark.parametrize("mode", ["json", "plain", "rich"])
def test_no_mode_writes_the_password_of_a_url(stream: io.StringIO, mode: Mode) -> None:
    configure(mode, stream=stream)
    url = "postgresql://app:hunter2@db/app"

    log.info(
        "connecting", url=url, hint=f"try {url}", urls=[url], by={"name": url}, error=OSError(url), password="hunter2"
    )
    logging.getLogger("aiormq").warning("cannot reach %s", "amqp://guest:hunter2@localhost:5672/")
    try:
        raise ConnectionError(url)
    except ConnectionError:
        log.exception("lost", stack_info=True)

    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("app:***@db") >= 6


def test_values_that_json_does_not_know_become_text(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    log.info(
        "odd",
        level="mine",
        wait=timedelta(seconds=90),
        error=ValueError("bad"),
        path=Path("/tmp"),
        nan=float("nan"),
        failure=Failure.BUG,
        names={"a"},
        lone="\udc80",
    )

    (record,) = records(stream)
    assert record["level"] == "info"
    assert record["level_"] == "mine"
    assert record["wait"] == "90s"
    assert record["error"] == "ValueError: bad"
    assert record["path"] == "/tmp"
    assert record["nan"] == "nan"
    assert record["failure"] == "bug"
    assert record["names"] == ["a"]


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("cannot be shown")


@pytest.mark.parametrize("mode", ["json", "plain", "rich"])
def test_a_record_that_cannot_be_written_is_told_of_and_harms_nobody(stream: io.StringIO, mode: Mode) -> None:
    configure(mode, stream=stream)

    log.info("odd", value=Mute())
    logging.getLogger("foreign").warning("%d apples", "many")

    assert stream.getvalue().count("log record cannot be written") == 2
    assert "cannot be shown" in stream.getvalue()


class Unraisable:
    """The hook's argument, which only the interpreter can make."""

    object = "its finalizer"

    def __init__(self, error: BaseException) -> None:
        self.exc_value = error


def test_warnings_and_uncaught_exceptions_are_records(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning("old", DeprecationWarning, "their.py", 7)
    sys.excepthook(ValueError, ValueError("a bug"), None)
    sys.unraisablehook(cast("Any", Unraisable(ValueError("in a finalizer"))))

    warning, uncaught, ignored = records(stream)
    assert (warning["category"], warning["message"], warning["source"]) == ("DeprecationWarning", "old", "their.py:7")
    assert (uncaught["level"], uncaught["exception"]) == ("critical", "ValueError: a bug")
    assert (ignored["source"], ignored["exception"]) == ("'its finalizer'", "ValueError: in a finalizer")


def test_only_the_chosen_level_and_above_is_written(stream: io.StringIO) -> None:
    configure("json", "warning", stream=stream)
    log.info("ours")
    logging.getLogger("alembic").info("theirs")
    assert records(stream) == []

    configure("json", "info", stream=stream)
    log.debug("ours")
    logging.getLogger("psycopg.pool").info("connection requested")
    logging.getLogger("alembic").info("theirs")
    assert [record["event"] for record in records(stream)] == ["theirs"]

    configure("json", "debug", stream=stream)
    logging.getLogger("psycopg.pool").info("connection requested")
    assert records(stream)[-1]["event"] == "connection requested"


def test_plain_is_a_line_per_record_without_control_characters(stream: io.StringIO) -> None:
    configure("plain", stream=stream)

    log.info("first\nsecond\x1b[31m", name="two words", plain="word", number=3)

    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "first\\nsecond\\x1b[31m name='two words' plain=word number=3 [tests.logs]" in line


def test_rich_keeps_a_long_record_on_one_line_and_shows_markup_as_it_is(stream: io.StringIO) -> None:
    console = configure("rich", stream=stream)

    log.info("long", text="x" * 500, markup="[red]not red[/red]")

    assert console is not None
    assert stream.getvalue().count("\n") == 1
    assert "[red]not red[/red]" in re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert not console.is_interactive


@pytest.mark.parametrize(
    ("setting", "stream", "term", "mode"),
    [
        ("auto", Terminal(), "xterm", "rich"),
        ("auto", Terminal(), "dumb", "json"),
        ("auto", io.StringIO(), "xterm", "json"),
        ("auto", None, "xterm", "json"),
        ("plain", Terminal(), "xterm", "plain"),
        ("rich", io.StringIO(), "xterm", "rich"),
        ("json", Terminal(), "xterm", "json"),
    ],
)
def test_auto_is_rich_on_a_terminal_and_json_elsewhere(
    monkeypatch: pytest.MonkeyPatch, setting: Any, stream: Any, term: str, mode: Mode
) -> None:
    monkeypatch.setenv("TERM", term)
    assert choose_mode(setting, stream) == mode


def error() -> ValueError:
    try:
        raise ValueError("why")
    except ValueError as raised:
        return raised


@pytest.mark.parametrize(
    ("event", "level", "fields"),
    [
        (RoleWaiting("api", ("database",)), "info", {"role": "api", "needs": ["database"]}),
        (RoleStarting("api", 2), "debug", {"role": "api", "attempt": 2}),
        (RoleStarted("api", 0.12345), "info", {"role": "api", "took": 0.123}),
        (
            RoleFailed("api", Failure.UNAVAILABLE, error(), 0.5),
            "warning",
            {"role": "api", "failure": "unavailable", "error": "ValueError: why", "restart_in": 0.5},
        ),
        (
            RoleFailed("api", Failure.CONFIGURATION, error(), None),
            "error",
            {"role": "api", "failure": "configuration", "error": "ValueError: why", "restart_in": None},
        ),
        (RoleStopped("api", 1.0, cut_off=False), "info", {"role": "api", "took": 1.0, "cut_off": False}),
        (RoleStopped("api", 1.0, cut_off=True), "warning", {"role": "api", "took": 1.0, "cut_off": True}),
        (DrainStarted("SIGTERM", 25.0), "info", {"reason": "SIGTERM", "timeout": 25.0}),
        (
            DrainFinished(1.5, (ReceiptLine("api", 4, 1, 1, 1, 1),)),
            "info",
            {
                "took": 1.5,
                "receipt": [
                    {"role": "api", "in_flight": 4, "finished": 1, "failed": 1, "given_back": 1, "cut_off": 1}
                ],
            },
        ),
        (LoopBlocked(2.0, "File …"), "warning", {"seconds": 2.0, "stack": "File …"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_an_event_of_the_supervisor_is_one_record(
    stream: io.StringIO, event: Event, level: str, fields: dict[str, Any]
) -> None:
    configure("json", "debug", stream=stream)

    log_event(event)

    (record,) = records(stream)
    assert record["level"] == level
    assert {name: value for name, value in record.items() if name not in HEAD} == fields


def test_a_bug_comes_with_its_traceback(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    log_event(RoleFailed("api", Failure.BUG, error(), 1.0))

    (record,) = records(stream)
    assert record["exception"].startswith("Traceback")


def run(code: str, **options: Any) -> subprocess.Popen[bytes]:
    script = f"from roles.logs import configure\nimport structlog, sys, time, logging\n{textwrap.dedent(code)}"
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, **options)


def test_a_reader_that_goes_away_takes_nobody_along() -> None:
    code = """
        configure("json")
        log = structlog.get_logger()
        log.info("first")
        sys.stdin.read()
        for _ in range(1000):
            log.info("nobody reads this")
        print("nor this")
        sys.stderr.write("alive")
    """
    with run(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        assert child.stderr
        assert json.loads(child.stdout.readline())["event"] == "first"
        child.stdout.close()
        child.stdin.close()
        assert child.stderr.read() == b"alive"
    assert child.returncode == 0


def test_a_reader_that_stalls_holds_nobody_up_and_is_told_what_it_missed() -> None:
    code = """
        import select
        import roles.logs
        roles.logs.EXIT_PATIENCE = 60.0
        configure("json")
        log = structlog.get_logger()
        later = 0
        began = time.monotonic()
        for number in range(20_000):
            log.info("x" * 200, number=number)
        sys.stderr.write(f"{time.monotonic() - began}\\n")
        sys.stderr.flush()
        while not select.select([sys.stdin], [], [], 0.01)[0]:
            log.info("later")
            later += 1
        sys.stderr.write(f"{later}\\n")
    """
    with run(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        assert child.stderr
        assert float(child.stderr.readline()) < 20
        seen = []
        for text in child.stdout:
            seen.append(json.loads(text))
            if "dropped" in seen[-1]["event"]:
                child.stdin.close()
        later = int(child.stderr.readline())
    assert child.returncode == 0
    numbers = [record["number"] for record in seen if "number" in record]
    (missed,) = (record["count"] for record in seen if "dropped" in record["event"])
    assert numbers == list(range(len(numbers)))
    assert len(seen) - 1 + missed == 20_000 + later


def test_what_a_reader_missed_it_is_told_at_the_end_if_not_before() -> None:
    code = """
        import roles.logs
        roles.logs.EXIT_PATIENCE = 60.0
        configure("json")
        log = structlog.get_logger()
        for number in range(20_000):
            log.info("x" * 200, number=number)
        sys.stderr.write("all logged\\n")
        sys.stderr.flush()
    """
    with run(code, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stderr
        assert child.stderr.readline() == b"all logged\n"
        seen = [json.loads(text) for text in child.stdout]
    assert child.returncode == 0
    numbers = [record["number"] for record in seen if "number" in record]
    assert numbers == list(range(len(numbers)))
    assert seen[-1]["count"] == 20_000 - len(numbers) > 0


@pytest.mark.parametrize(
    "end", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM)"]
)
def test_an_end_in_the_middle_of_a_turn_loses_no_record(end: str) -> None:
    code = f"""
        import anyio, datetime, os, signal
        from roles.signals import drain_on_signals
        configure("json")
        async def main():
            drain_on_signals(anyio.Event(), datetime.timedelta(seconds=60))
            structlog.get_logger().info("in the last turn")
            {end}
        anyio.run(main)
    """
    with run(code, stdout=subprocess.PIPE) as child:
        assert child.stdout
        first = json.loads(child.stdout.readline())
    assert child.returncode == 1
    assert first["event"] == "in the last turn"


def test_without_a_standard_output_logs_go_nowhere() -> None:
    with run("configure('json'); structlog.get_logger().info('x')", preexec_fn=lambda: os.close(1)) as child:
        assert child.stderr
        assert child.stderr.read() == b""
    assert child.returncode == 0


def test_what_a_child_process_would_print_as_a_traceback_is_one_record() -> None:
    code = """
        import threading
        configure("json")
        thread = threading.Thread(target=lambda: 1 / 0, name="helper")
        thread.start()
        thread.join()
        raise RuntimeError("the end")
    """
    with run(code, stdout=subprocess.PIPE) as child:
        assert child.stdout
        in_thread, at_end = (json.loads(text) for text in child.stdout)
    assert in_thread["thread"] == "helper"
    assert "ZeroDivisionError" in in_thread["exception"]
    assert "the end" in at_end["exception"]


def test_the_outlet_keeps_no_more_than_its_limit() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        outlet = Outlet(stream)
        began = time.monotonic()
        for _ in range(40):
            outlet.write("x" * 99_999)
        assert time.monotonic() - began < 20
        assert outlet.take_lost() == 0
        received = 0
        while received < LIMIT // 2:
            received += len(os.read(reader, 65_536))
            outlet.flush()
        while outlet.take_lost() == 0:
            os.read(reader, 65_536)
            outlet.flush()
    os.close(reader)


def test_the_outlet_drops_all_once_its_reader_is_gone() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        outlet = Outlet(stream)
        outlet.write("one\n")
        assert os.read(reader, 10) == b"one\n"
        os.close(reader)
        outlet.write("two\n")
        outlet.write("three\n")
        stream.write("what others write fails no more")


def test_the_outlet_leaves_to_later_what_a_non_blocking_pipe_does_not_take() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w") as stream:
        outlet = Outlet(stream)
        outlet.write("x" * 300_000)
        received = 0
        while received < 300_000:
            received += len(os.read(reader, 65_536))
            outlet.flush()
    os.close(reader)


def test_a_terminal_that_is_stopped_holds_nobody_up() -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        outlet = Outlet(stream)
        began = time.monotonic()
        for _ in range(300):
            outlet.write("x" * 1000)  # nobody reads: a terminal takes some kilobytes
        assert time.monotonic() - began < 20
        assert os.get_blocking(writer), "the shell shares this descriptor, and must not notice"
        received = 0
        while received < 300_000:
            received += len(os.read(reader, 65_536))
            outlet.flush()
    os.close(reader)
