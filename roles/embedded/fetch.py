"""Makes sure that RabbitMQ can be had: `python -m roles.embedded.fetch [--directory .local]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import anyio

from roles.embedded.rabbitmq_source import obtain
from schema.errors import DependencyUnavailable


def main() -> None:
    """Finds or fetches the server, and says so in one line.

    That there is none is no failure: the roles that need no broker run without it.
    """
    parser = argparse.ArgumentParser(prog="python -m roles.embedded.fetch", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path(".local"), help="where to keep what it unpacks")
    arguments = parser.parse_args()
    try:
        print(anyio.run(obtain, arguments.directory))  # noqa: T201 - the answer of a command
    except DependencyUnavailable as reason:
        print(reason)  # noqa: T201


if __name__ == "__main__":
    main()
