"""A private RabbitMQ node: its ports and password, and the configuration that follows from them."""

from __future__ import annotations

import json
import random
import secrets
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from roles.embedded.claim import claim, is_claimed_elsewhere
from roles.embedded.paths import make_private, write_private
from roles.embedded.survivors import marked_with

USER = "rolecall"
# Below the range that the system takes the ports of outgoing connections from: while the broker is down for a
# moment, no client's connection may come to sit on its port.
_PORTS = range(20000, 32768)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What is chosen once, and kept."""

    amqp_port: int
    management_port: int
    distribution_port: int
    epmd_port: int
    password: str

    @property
    def ports(self) -> list[int]:
        return [self.amqp_port, self.management_port, self.distribution_port, self.epmd_port]

    def taken_ports(self) -> list[int]:
        """Those that something listens on or is bound to."""
        return [port for port in self.ports if not _is_free(port)]


@cache
def node_of(directory: Path) -> Node:
    """The node that runs in `directory`: the same one for as long as this process lives.

    Params:
        directory: the service's own, resolved. It keeps the node's ports and password in `node.json`.

    Ports that another program has taken since the last process are chosen anew. Where another process runs the
    service right now, its node is returned as it is.
    """
    return choose_node(directory)


def choose_node(directory: Path) -> Node:
    """What `node_of` does the first time."""
    make_private(directory)
    file = directory / "node.json"
    runs_elsewhere = is_claimed_elsewhere(directory)
    known = Node(**json.loads(file.read_text())) if file.exists() else None
    # Ports that an earlier run of the node still sits on are its own: it is stopped before the next start.
    if known is not None and (runs_elsewhere or not known.taken_ports() or marked_with(directory)):
        return known
    claim(directory)
    ports = _free_ports(4)
    password = known.password if known else secrets.token_urlsafe(18)
    node = Node(
        amqp_port=ports[0],
        management_port=ports[1],
        distribution_port=ports[2],
        epmd_port=ports[3],
        password=password,
    )
    write_private(file, json.dumps(asdict(node), indent=2) + "\n")
    return node


def configuration(node: Node) -> str:
    """The node's `rabbitmq.conf` (https://www.rabbitmq.com/docs/configure)."""
    return f"""\
listeners.tcp.1 = 127.0.0.1:{node.amqp_port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {node.management_port}
default_vhost = /
default_user = {USER}
default_pass = {node.password}
default_user_tags.administrator = true
log.file = false
log.console = true
log.console.level = warning
log.console.use_colors = off
# A laptop: little memory, and no blocked publisher because its disk is nearly full.
vm_memory_high_watermark.relative = 0.3
disk_free_limit.absolute = 20MB
raft.wal_max_size_bytes = 67108864
"""


def _free_ports(count: int) -> list[int]:
    free = (port for port in random.SystemRandom().sample(_PORTS, len(_PORTS)) if _is_free(port))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: what a closed connection leaves behind (TIME_WAIT) is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
