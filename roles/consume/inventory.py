"""What is declared and what a broker has, side by side, a row for each queue, exchange and binding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roles.consume.survey import Found
from roles.consume.topology import Topology


def inventory(declared: Topology, found: Found) -> Iterator[dict[str, Any]]:
    """Rows with `kind`, `name`, `state`, `messages`, `consumers`, `arguments`.

    `state` is `there`, `missing`, `other` (with other arguments), `stray` (there, but not declared), or `unseen`
    (nobody could look). `arguments` are those that are declared, or else those that a stray has.
    """
    for name, queue in declared.queues.items():
        there = found.queues.get(name)
        state = "missing" if there is None else "other" if there.mismatch else "there"
        yield _row(
            "queue",
            name,
            state,
            messages=there.messages if there else None,
            consumers=there.consumers if there else None,
            arguments=queue.arguments,
        )
    for name, each in found.queues.items():
        if name not in declared.queues:
            yield _row(
                "queue",
                name,
                "stray",
                messages=each.messages,
                consumers=each.consumers,
                arguments=each.arguments or {},
            )
    for name, kind in declared.exchanges.items():
        state = "missing" if name not in found.exchanges else "other" if found.exchanges[name] else "there"
        yield _row("exchange", name, state, arguments={"type": kind})
    for binding in sorted(declared.bindings | (found.bindings or frozenset())):
        state = (
            "unseen"
            if found.bindings is None
            else "stray"
            if binding not in declared.bindings
            else "there"
            if binding in found.bindings
            else "missing"
        )
        yield _row("binding", str(binding), state)


def describe(arguments: Mapping[str, Any]) -> str:
    """Arguments in one line."""
    return " ".join(f"{name.removeprefix('x-')}={value}" for name, value in sorted(arguments.items()) if value != "")


def _row(
    kind: str,
    name: str,
    state: str,
    *,
    messages: int | None = None,
    consumers: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "state": state,
        "messages": messages,
        "consumers": consumers,
        "arguments": dict(arguments or {}),
    }
