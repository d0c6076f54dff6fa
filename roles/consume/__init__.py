"""Consumers: handlers that take messages from RabbitMQ queues. Yours are in `roles.consume.handlers`."""

from __future__ import annotations

from roles.consume.breaker import Breaker
from roles.consume.declarations import Consumer, consumer
from roles.consume.delivery import AlreadyHandled, Delivery
from roles.consume.retry import Ladder, Reject

__all__ = ["AlreadyHandled", "Breaker", "Consumer", "Delivery", "Ladder", "Reject", "consumer"]
