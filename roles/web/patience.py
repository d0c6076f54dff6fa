"""What a server bears from its clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What connections may take.

    Params:
        connections: how many there may be at a time.
        keep_alive_timeout: how long one may say nothing.
        headers_timeout: how long the target and the headers of a request may take to arrive.
        headers_length: how many bytes these may have, together.
    """

    connections: int = 256
    keep_alive_timeout: timedelta = timedelta(seconds=75)
    headers_timeout: timedelta = timedelta(seconds=10)
    headers_length: int = 2**14


PATIENCE = Patience()
"""Enough for people and probes."""
