"""Bytes that are no request, or too much of one, or that another server would read in another way.

Each is answered with the problem that it is, or the connection is closed; no part of it is taken for another request;
and the process has nothing to show for it afterwards: no socket, no request in flight, no error in its logs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import pytest

from tests.attacks.table import ATTACKS, Attack
from tests.attacks.target import SERVER, WORDLESS, Target, attacked, received, replies

pytestmark = pytest.mark.anyio

PAUSE = 0.02
"""Seconds between parts, so that they come in more than one piece."""


@pytest.fixture(scope="module")
async def target(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    async with attacked(tmp_path_factory.mktemp("attacked"), shared_database_url) as target:
        yield target
    assert not [record for record in target.app.records if record.get("path") == "/smuggled"]


async def strike(target: Target, attack: Attack) -> bytes:
    """Sends all of it, and reads until the server ends the connection."""
    async with await target.connect() as stream, anyio.create_task_group() as tasks:

        async def send() -> None:
            try:
                for number, part in enumerate(attack.sends):
                    await anyio.sleep(PAUSE * bool(number))
                    await stream.send(part)
                if attack.half_close:
                    await stream.send_eof()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # the server has heard enough

        tasks.start_soon(send)
        data = await received(stream)
        tasks.cancel_scope.cancel()
    return data


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_it_is_answered_as_it_should_be(attack: Attack, target: Target) -> None:
    answers = replies(await strike(target, attack))
    assert tuple(reply.status for reply in answers) == attack.expected(SERVER)
    for reply in answers:
        assert "set-cookie" not in reply.headers
        assert not reply.headers.get("server")
        if reply.status >= 400 and (reply.body or SERVER not in WORDLESS):
            problem = json.loads(reply.body)
            assert problem["status"] == reply.status
            assert problem["request_id"] == reply.headers["x-request-id"]
            assert reply.headers["x-content-type-options"] == "nosniff"
