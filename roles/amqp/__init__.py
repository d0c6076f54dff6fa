"""RabbitMQ: the only package that touches aiormq.

Every call has a deadline, and when one expires the connection is cut: a peer that is silent cannot be trusted
with anything that follows. However aiormq ends a call, the caller sees one of these:

```
Exception
├── DependencyUnavailable
│   └── BrokerUnavailable     away, silent, refusing us, or it took back a channel: try again
│       └── NotAccepted       it answers, but a queue that the message belongs into is full, or fails
├── ConfigurationError
│   └── TopologyMismatch      a queue or an exchange exists, and is not what we declare
├── Unroutable                published to where no queue listens
└── MessageRefused            the broker will not take this very message, however often it is tried
```
"""

from __future__ import annotations

from roles.amqp.broker import Broker, virtual_host
from roles.amqp.channel import Channel, Delivery, QueueCount
from roles.amqp.errors import (
    BrokerUnavailable,
    MessageRefused,
    Mismatch,
    NotAccepted,
    TopologyMismatch,
    Unroutable,
    remedy,
)
from roles.amqp.pipeline import Outgoing
from roles.amqp.properties import Properties

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "Channel",
    "Delivery",
    "MessageRefused",
    "Mismatch",
    "NotAccepted",
    "Outgoing",
    "Properties",
    "QueueCount",
    "TopologyMismatch",
    "Unroutable",
    "remedy",
    "virtual_host",
]
