"""Room for connections: each is a file descriptor, and a process without any left can open nothing else either."""

from __future__ import annotations

import resource

import structlog

RESERVED = 512
"""Descriptors that are left to the database, the brokers, the ops port and files."""

log = structlog.get_logger(__name__)


def make_room(connections: int) -> int:
    """Raises the limit of this process, as far as it may, so that there can be so many connections.

    Returns:
        How many there can be: fewer, if the system does not let it (`ulimit -Hn`), and at least one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    if _is_less(soft, wanted):
        soft = hard if _is_less(hard, wanted) else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if not _is_less(soft, wanted):
        return connections
    possible = max(soft - RESERVED, 1)
    log.warning("fewer connections than configured", connections=possible, wanted=connections, descriptors=soft)
    return possible


def _is_less(limit: int, wanted: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < wanted
