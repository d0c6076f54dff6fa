"""A RabbitMQ that is short of memory, for real: it lets everybody in, and stops reading from those that publish."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import anyio
import pytest

from db.pool import Pool
from roles.embedded import survivors
from roles.embedded.rabbitmq import RabbitMQ
from roles.embedded.rabbitmq_source import Native, obtain
from tests.amqp.support import eventually
from tests.consume.support import producing
from tests.relay.support import bodies, note, outbox, relaying
from tests.services import SOURCES, running

pytestmark = pytest.mark.anyio


def set_watermark(erl_call: Path, directory: Path, share: float) -> None:
    """Of the machine's memory, from which on the node that is kept in `directory` raises its alarm."""
    pid = survivors.marked_with(directory / "rabbitmq")[0]
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    environ = dict(line.split("=", 1) for line in lines if line)
    order = f"vm_memory_monitor set_vm_memory_high_watermark [{share:.9f}]"
    subprocess.run([erl_call, "-sname", "rolecall@localhost", "-a", order], env=environ, check=True)


async def test_an_alarm_burns_no_attempt_and_holds_nothing_back_afterwards(pool: Pool, tmp_path: Path) -> None:
    source = await obtain(SOURCES)
    if not isinstance(source, Native):
        pytest.skip("there is no erl_call beside a RabbitMQ in a container")
    set_to = partial(set_watermark, source.erlang / "erl_call", tmp_path)
    node = RabbitMQ(tmp_path, source_directory=SOURCES)
    with running(node):
        async with producing(node.url) as broker:
            await broker.channel.exchange_declare("e", exchange_type="topic", durable=True)
            await broker.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
            await broker.channel.queue_bind("q", "e", "noted")
            await anyio.to_thread.run_sync(set_to, 1e-6)
            async with relaying(pool, node.url, amqp={"example": {"timeout": "500ms"}}) as relay:
                await note("a", "b", "c")
                await eventually(lambda: relay.tally().taken >= 8)
                assert [(row["attempts"], row["last_error"]) for row in await outbox()] == [(0, None)] * 3
                assert "no answer to basic.publish" in (relay.status().reason or "")
                await anyio.to_thread.run_sync(set_to, 0.6)
                arrived: list[str] = []
                while len(set(arrived)) < 3:  # what it had not read of the first try it may read now
                    arrived += await bodies(broker, 1)
                assert list(dict.fromkeys(arrived)) == ["a", "b", "c"]
