"""The `reload` role: the application in a child process that is restarted when its source changes.

The embedded servers run in the parent, so that a restart costs as long as the application takes, not they.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import structlog
from anyio.abc import Process, TaskStatus

from schema.errors import ConfigurationError

SOURCE = Path(__file__).parent.parent.parent
NAMES = (".py", ".toml", ".env")
PATIENCE = 30.0
"""Seconds that the child has to drain in before it is killed; it has a deadline of its own."""

log = structlog.get_logger(__name__)


class ReloadRole:
    """Runs a command, and runs it again after each change below the source.

    Params:
        command: what to run.
        environment: variables to set for it, over those of this process.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """See `roles.role.Role`.

        Raises:
            ConfigurationError: watchfiles is not installed, as in production.
        """
        try:
            from watchfiles import DefaultFilter, awatch  # noqa: PLC0415 - not there in production
        except ImportError:
            raise ConfigurationError("--reload needs watchfiles, a tool of development: run `uv sync`") from None

        class SourceOnly(DefaultFilter):
            def __call__(self, change: object, path: str) -> bool:
                return path.endswith(NAMES) and super().__call__(change, path)  # type: ignore[arg-type]

        task_status.started()
        async with anyio.create_task_group() as group:
            process = await self._start()
            group.start_soon(self._mourn, process)
            try:
                async for changes in awatch(SOURCE, watch_filter=SourceOnly(), stop_event=stop):
                    names = sorted({str(Path(path).relative_to(SOURCE)) for _, path in changes})
                    log.info("source changed: restarting", files=names)
                    await self._end(process)
                    process = await self._start()
                    group.start_soon(self._mourn, process)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end(process)

    async def _start(self) -> Process:
        # A session of its own: Ctrl-C on the terminal reaches it through us, once, and not twice.
        return await anyio.open_process(
            self._command, stdin=None, stdout=None, stderr=None, env=self._environment, start_new_session=True
        )

    async def _mourn(self, process: Process) -> None:
        code = await process.wait()
        if code > 0:
            log.error("the application ended: it starts again after the next change", exit_code=code)

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(PATIENCE):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
