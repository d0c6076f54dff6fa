"""The names of a consumer's other queues."""

from __future__ import annotations

from datetime import timedelta

from schema.duration import format_duration


def parked_queue(queue: str) -> str:
    """The parking lot: `q.parked`."""
    return f"{queue}.parked"


def wait_queue(queue: str, delay: timedelta) -> str:
    """Where a message waits for so long: `q.retry.5s`."""
    return f"{queue}.retry.{format_duration(delay)}"


def moving_queue(queue: str) -> str:
    """Where messages are kept while their queue is made anew: `q.moving`."""
    return f"{queue}.moving"
