"""FastStream with SQLAlchemy: each message becomes a student, and is acked once that is committed.

`AMQP_URL` names the broker, `PREFETCH` how many messages are handled at a time.
"""

from __future__ import annotations

import os

import anyio
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from bench.peers.database import StudentRow, sessions
from schema.students import NewStudent

# Without a logger: by default it writes two lines per message, and Rolecall none for one that went well.
broker = RabbitBroker(os.environ["AMQP_URL"], logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(
    RabbitQueue("example.main", queue_type=QueueType.QUORUM, declare=False),
    channel=Channel(prefetch_count=int(os.environ["PREFETCH"])),
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def create_student(message: NewStudent) -> None:
    """Store the student that the message describes."""
    async with sessions() as session, session.begin():
        session.add(StudentRow(name=message.name))


if __name__ == "__main__":
    anyio.run(app.run, backend_options={"use_uvloop": True})
