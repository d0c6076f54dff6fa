"""A child process from its start to its last signal, and what a killed parent leaves."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import TASK_STATUS_IGNORED

from roles.embedded import survivors
from roles.embedded.process import Command, ServiceEnded, running
from tests.embedded.support import another_process, eventually, is_alive

pytestmark = pytest.mark.anyio

SLEEP = Path("/bin/sleep").resolve().name
PYTHON = Path(sys.executable).resolve().name


def command(directory: Path, script: str, *, stop_after: float = 5.0) -> Command:
    return Command(
        name="Sleeper",
        arguments=["sh", "-c", script],
        directory=directory,
        log=directory / "sleeper.log",
        environment={"PATH": os.defpath, survivors.MARK: str(directory)},
        stop=((signal.SIGTERM, stop_after),),
    )


def has_logged(directory: Path, text: str) -> bool:
    return (directory / "sleeper.log").read_text() == text


async def is_ready() -> None:
    await anyio.lowlevel.checkpoint()


async def test_a_child_that_ends_by_itself_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    async with running(command(tmp_path, "echo out of memory; exit 3")) as child:
        with anyio.fail_after(60), pytest.raises(ServiceEnded) as ended:
            await child.serve(is_ready, within=30, task_status=TASK_STATUS_IGNORED, stop=anyio.Event())
    assert "Sleeper ended with exit code 3" in str(ended.value)
    assert "out of memory" in str(ended.value)


async def test_a_child_that_is_killed_is_a_failure_that_names_the_signal(tmp_path: Path) -> None:
    async with running(command(tmp_path, "exec sleep 60")) as child:
        os.kill(child.pid, signal.SIGKILL)
        with anyio.fail_after(60), pytest.raises(ServiceEnded, match="SIGKILL"):
            await child.serve(is_ready, within=30, task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_a_child_that_never_gets_ready_is_a_failure(tmp_path: Path) -> None:
    async with running(command(tmp_path, "exec sleep 60")) as child:
        with anyio.fail_after(60), pytest.raises(ServiceEnded, match=r"not ready within 0\.1 s"):
            await child.serve(anyio.sleep_forever, within=0.1, task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_what_the_check_for_readiness_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    async def broken() -> None:
        raise ValueError("wrong password")

    async with running(command(tmp_path, "exec sleep 60")) as child:
        with anyio.fail_after(60), pytest.raises(ValueError, match="wrong password"):
            await child.serve(broken, within=30, task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


async def test_a_stop_in_the_middle_of_the_start_is_no_failure(tmp_path: Path) -> None:
    stop = anyio.Event()
    stop.set()
    async with running(command(tmp_path, "exec sleep 60")) as child:
        with anyio.fail_after(60):
            await child.serve(anyio.sleep_forever, within=30, task_status=TASK_STATUS_IGNORED, stop=stop)
    assert not is_alive(child.pid)


async def test_a_child_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 60 & echo $! > grandchild; while :; do sleep 1; done"
    async with running(command(tmp_path, script, stop_after=0.2)) as child:
        file = tmp_path / "grandchild"
        await eventually(lambda: file.exists() and file.read_text().strip() != "")
        grandchild = int(file.read_text())
    assert not is_alive(child.pid)
    await eventually(lambda: not is_alive(grandchild))


async def test_a_child_is_ended_when_its_role_is_cancelled(tmp_path: Path) -> None:
    with anyio.move_on_after(0.2):
        async with running(command(tmp_path, "exec sleep 60")) as child:
            await anyio.sleep_forever()
    assert not is_alive(child.pid)


async def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second"):
        async with running(command(tmp_path, f"echo {word}; exec sleep 60")):
            await eventually(partial(has_logged, tmp_path, f"{word}\n"))
    assert (tmp_path / "sleeper.log.1").read_text() == "first\n"


async def test_the_kernel_ends_the_child_of_a_killed_parent() -> None:
    code = """
import signal, subprocess
from roles.embedded.process import dying_with_parent
child = subprocess.Popen([*dying_with_parent(signal.SIGTERM), "sleep", "60"])
print(child.pid, flush=True)
signal.pause()
"""
    with another_process(code) as parent:
        child = int(parent.line)
        await eventually(lambda: Path(f"/proc/{child}/exe").resolve().name == SLEEP)
        parent.die()
        await eventually(lambda: not is_alive(child))


async def test_survivors_are_found_by_their_mark_and_ended_by_ever_harder_signals(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo ready; while :; do sleep 1; done"
    mine = partial(survivors.marked_with, tmp_path)
    assert mine() == []
    async with running(command(tmp_path, stubborn)) as child:
        await eventually(partial(has_logged, tmp_path, "ready\n"))
        assert child.pid in mine()
        assert survivors.marked_with(tmp_path / "other") == []
        await survivors.end(mine, ((signal.SIGTERM, 0.2), (signal.SIGKILL, 10.0)), name="Sleeper")
        assert mine() == []


async def test_survivors_that_nothing_ends_are_named(tmp_path: Path) -> None:
    async with running(command(tmp_path, "trap '' TERM; while :; do sleep 1; done", stop_after=0.1)) as child:
        with pytest.raises(ServiceEnded, match="kill them"):
            await survivors.end(lambda: [child.pid], ((signal.SIGTERM, 0.1),), name="Sleeper")


async def test_survivors_are_found_by_program_and_working_directory(tmp_path: Path) -> None:
    async with running(command(tmp_path, "exec sleep 60")) as child:
        await eventually(lambda: survivors.working_in(tmp_path, SLEEP) == [child.pid])
        assert survivors.working_in(tmp_path, "postgres") == []
        assert os.getpid() not in survivors.working_in(Path.cwd(), PYTHON)
