"""Logs: ours and everybody else's in one shape, on one stream.

| mode  | a record is |
|-------|-------------|
| json  | one JSON object on one line: `timestamp` (ISO, UTC), `level`, `logger`, `event`, the fields, `exception` |
| plain | one readable line; a traceback follows below it |
| rich  | the same in colours, above the live panel of `roles.ops.console` |

structlog hands its events to the standard library, and one handler on the root logger writes them all, so that
Hypercorn, aiormq, Alembic, psycopg and warnings look like our own. What is bound in `structlog.contextvars`
(role, request_id, message_id, queue, job) is in every record of that context. Passwords are in none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import MappingProxyType, NoneType, TracebackType
from typing import Any, Final, Literal, TextIO, cast

import structlog
from rich.console import Console
from rich.text import Text

from roles.events import (
    DrainFinished,
    DrainStarted,
    Event,
    Failure,
    LoopBlocked,
    RoleFailed,
    RoleStarted,
    RoleStarting,
    RoleStopped,
    RoleWaiting,
)
from roles.log_records import line, shape
from roles.outlet import Outlet

Mode = Literal["rich", "plain", "json"]

CHATTY: Final = {
    "psycopg.pool": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiormq.connection": logging.CRITICAL,
}
"""Loggers that tell of every single call, or with a traceback what we have an event for, and where they start
unless the level is debug."""

TOGETHER: Final = 100
"""Records that are written together, at most."""

EXIT_PATIENCE: Final = 1.0
"""Seconds that a slow reader of the logs is given when the process ends."""

log = structlog.get_logger(__name__)

_UNBOUND: Final[Mapping[str, Any]] = MappingProxyType({})

_LASTING: Final = frozenset({str, int, float, bool, NoneType})

_to_json = json.JSONEncoder(separators=(",", ":")).encode


def choose_mode(setting: Literal["auto", "rich", "plain", "json"], stream: TextIO | None) -> Mode:
    """The mode that `setting` asks for; `auto` is rich on a terminal that can move its cursor, else json."""
    if setting != "auto":
        return setting
    capable = stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return "rich" if capable else "json"


def configure(mode: Mode, level: str = "info", *, stream: TextIO | None = None) -> Console | None:
    """Makes every log of this process come out in one shape. May be called again, with another mode.

    Params:
        level: the lowest that is written: debug, info, warning or error.
        stream: where to; standard output by default.

    Returns:
        The console that the records go through, for panels and tables beside them; None in json mode.
    """
    outlet = Outlet(sys.stdout if stream is None else stream)
    console = None if mode == "json" else _console(mode, outlet)
    number = logging.getLevelNamesMapping()[level.upper()]
    # What nobody is shown, and costs time (the "Optimization" of Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[_Handler(outlet, console)], level=number, force=True)
    for name, least in CHATTY.items():
        logging.getLogger(name).setLevel(number if number <= logging.DEBUG else max(number, least))
    structlog.configure(
        processors=[structlog.processors.StackInfoRenderer(), _hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    logging.setLoggerClass(_Logger)  # as that factory does
    warnings.showwarning = _on_warning
    sys.excepthook = _on_exception
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_exception
    return console


def log_event(event: Event) -> None:
    """Writes an event of the supervisor as one record. May be called in any thread."""
    match event:
        case RoleWaiting(role, needs):
            log.info("role waiting", role=role, needs=needs)
        case RoleStarting(role, attempt):
            log.debug("role starting", role=role, attempt=attempt)
        case RoleStarted(role, took):
            log.info("role started", role=role, took=round(took, 3))
        case RoleFailed(role, Failure.UNAVAILABLE, error, restart_in):
            log.warning("role failed", role=role, failure=Failure.UNAVAILABLE, error=error, restart_in=restart_in)
        case RoleFailed(role, failure, error, restart_in):
            trace = error if failure is Failure.BUG else None
            log.error("role failed", role=role, failure=failure, error=error, restart_in=restart_in, exc_info=trace)
        case RoleStopped(role, took, cut_off):
            (log.warning if cut_off else log.info)("role stopped", role=role, took=round(took, 3), cut_off=cut_off)
        case DrainStarted(reason, timeout):
            log.info("drain started", reason=reason, timeout=timeout)
        case DrainFinished(took, receipt):
            log.info("drain finished", took=round(took, 3), receipt=[asdict(row) for row in receipt])
        case LoopBlocked(seconds, stack):
            log.warning("event loop blocked", seconds=round(seconds, 3), stack=stack)
        case _:
            log.info("event", kind=type(event).__name__, details=event)


class _Logger(logging.Logger):
    """Looks for its caller for the sake of a stack only: nobody is shown in which line a record was made."""

    def findCaller(self, stack_info: bool = False, stacklevel: int = 1) -> tuple[str, int, str, str | None]:  # noqa: FBT001, FBT002, N802 - logging's signature
        return super().findCaller(stack_info, stacklevel + 1) if stack_info else ("", 0, "", None)


class _Handler(logging.Handler):
    """Writes each record, whoever made it: as JSON, or through the console.

    Where an event loop runs, a record that is no warning waits for the end of the loop's turn, to be written together
    with the others of that turn: made one after the other, they cost less. Nothing is overtaken, for what is written
    at once takes along what waits; and only SIGKILL and its like lose the records of a turn.
    """

    def __init__(self, outlet: Outlet, console: Console | None) -> None:
        super().__init__()
        self._outlet, self._console = outlet, console
        self._waiting: deque[tuple[logging.LogRecord, Mapping[str, Any]]] = deque()
        """Each with what was bound when it was made."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one at the end of whose turn they are written; None if none waits."""

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append((record, structlog.contextvars.get_contextvars()))
        urgent = record.levelno >= logging.WARNING or _may_change(record) or len(self._waiting) >= TOGETHER
        if urgent or not self._wait_for_turn():
            self._write_waiting()

    def flush(self) -> None:
        """Sends what waits, and then how much was dropped, to a reader that is not too slow."""
        with self._alone():
            self._write_waiting()
            self._outlet.flush(EXIT_PATIENCE)
            if self._tell_lost():
                self._outlet.flush(EXIT_PATIENCE)

    def close(self) -> None:
        with self._alone():
            self._write_waiting()
        super().close()

    def _wait_for_turn(self) -> bool:
        """Has what waits written at the end of this turn; False if no loop runs here."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._loop is not loop:  # another one has ended, and will not call any more
            self._loop = loop
            loop.call_soon(self._end_turn)
        return True

    def _end_turn(self) -> None:
        with self._alone():
            self._loop = None
            self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            record, bound = self._waiting.popleft()  # one at a time: a signal may end the process in between
            try:
                self._write(record, bound)
            except Exception:  # noqa: BLE001 - what cannot be shown must not take its caller down
                self._write(_about("log record cannot be written", source=record.name, text=repr(record.msg)[:500]))
        self._outlet.flush()
        self._tell_lost()

    def _tell_lost(self) -> bool:
        lost = self._outlet.take_lost()
        if lost:
            self._write(_about("log records dropped: nobody read them", count=lost))
            self._outlet.flush()
        return lost > 0

    def _write(self, record: logging.LogRecord, bound: Mapping[str, Any] = _UNBOUND) -> None:
        shaped = shape(record, bound)
        if self._console is None:
            self._outlet.keep(_to_json(shaped) + "\n")
        elif self._console.is_terminal:
            local = time.strftime("%H:%M:%S", time.localtime(record.created))
            # The terminal wraps, not Rich: a long line stays one line when it is copied.
            self._console.print(Text.assemble(*line(shaped, local)), soft_wrap=True, highlight=False)
        else:
            self._outlet.keep("".join(text for text, _ in line(shaped, shaped["timestamp"])) + "\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _may_change(record: logging.LogRecord) -> bool:
    """Whether it could be another one when the turn is over: of a list it would show what is in it then."""
    fields: Mapping[str, Any] = getattr(record, "fields", _UNBOUND)
    settled = isinstance(record.msg, str) and not record.args
    return not settled or not _LASTING.issuperset(map(type, fields.values()))


def _about(event: str, **fields: Any) -> logging.LogRecord:
    """A record of this module about a record that is in trouble."""
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, event, None, sys.exc_info())
    record.fields = fields
    return record


def _console(mode: Mode, outlet: Outlet) -> Console:
    file = cast("TextIO", outlet)
    if mode == "plain":
        return Console(file=file, force_terminal=False, color_system=None, width=100)
    # Forced onto a pipe, rich means colours; a live panel needs a real terminal.
    return Console(file=file, force_terminal=True, force_interactive=choose_mode("auto", file) == "rich")


def _hand_over(_logger: object, _method: str, event: structlog.typing.EventDict) -> tuple[tuple[Any], dict[str, Any]]:
    """The last processor of structlog: what the standard library's logger is called with."""
    message = event.pop("event", "")
    return (message,), {"exc_info": event.pop("exc_info", None), "extra": {"fields": event}}


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the hook's signature
    line: str | None = None,  # noqa: ARG001
) -> None:
    log.warning("python warning", category=category.__name__, message=str(message), source=f"{filename}:{lineno}")


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("uncaught exception", exc_info=error)


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    log.error("uncaught exception in a thread", thread=args.thread and args.thread.name, exc_info=args.exc_value)


def _on_unraisable(args: sys.UnraisableHookArgs) -> None:
    log.error("exception ignored", source=repr(args.object), exc_info=args.exc_value)
