"""What differs between what is declared and what a broker has, and how to get there without losing a message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from roles.amqp import remedy
from roles.consume.names import moving_queue
from roles.consume.survey import Found, FoundQueue
from roles.consume.topology import Queue, Topology

Kind = Literal["missing", "other", "unfinished", "stray"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One of them, in words."""

    subject: str
    """Such as `queue example.main`."""
    kind: Kind
    text: str
    """What is so."""
    remedy: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}: {self.remedy}"


def differences(declared: Topology, found: Found) -> list[Difference]:
    """All that can be seen; none if an application can start and get all of its messages, and only those."""
    return [
        *_queues(declared, found),
        *_exchanges(declared, found),
        *_bindings(declared, found),
        *_strays(declared, found),
    ]


def _queues(declared: Topology, found: Found) -> Iterator[Difference]:
    for name, queue in declared.queues.items():
        subject, there = f"queue {name}", found.queues.get(name)
        moving = found.queues.get(moving_queue(name))
        recreate = f"`python app.py topology apply --recreate {name}`"
        if moving is not None:
            text = f"was being made anew: {moving.messages} of its messages are in {moving_queue(name)}"
            yield Difference(subject, "unfinished", text, f"{recreate} goes on with it")
        elif there is None:
            yield Difference(subject, "missing", "is not there", _APPLY)
        elif there.mismatch is not None:
            yield Difference(subject, "other", "; ".join(_arguments(queue, there)), remedy(there.mismatch))


def _arguments(queue: Queue, found: FoundQueue) -> Iterator[str]:
    """What a queue was declared with and is declared with now: the first argument, or all that can be seen."""
    assert found.mismatch is not None
    if found.arguments is None:
        yield _one(found.mismatch.argument, found.mismatch.found, found.mismatch.declared)
        return
    ours, theirs = dict(queue.arguments), dict(found.arguments)
    if found.mismatch.argument not in ours.keys() | theirs.keys():  # such as `durable`
        yield _one(found.mismatch.argument, found.mismatch.found, found.mismatch.declared)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield _one(name, theirs.get(name, "none"), ours.get(name, "none"))


def _one(argument: str, found: Any, declared: Any) -> str:
    theirs, ours = ("''" if value == "" else value for value in (found, declared))
    return f"{argument} is {theirs}, and {ours} is declared"


def _exchanges(declared: Topology, found: Found) -> Iterator[Difference]:
    for name in declared.exchanges:
        if name not in found.exchanges:
            yield Difference(f"exchange {name}", "missing", "is not there", _APPLY)
        elif mismatch := found.exchanges[name]:
            bound = ", ".join(sorted(each.queue for each in found.bindings or () if each.exchange == name))
            text = _one(mismatch.argument, mismatch.found, mismatch.declared)
            if bound:
                text += f" (bound to it: {bound})"
            yield Difference(
                f"exchange {name}",
                "other",
                text,
                "stop its producers, delete it at the broker, then `python app.py topology apply`",
            )


def _bindings(declared: Topology, found: Found) -> Iterator[Difference]:
    if found.bindings is None:
        return
    for binding in sorted(declared.bindings - found.bindings):
        yield Difference(f"binding {binding}", "missing", "is not there", _APPLY)
    for binding in sorted(found.bindings - declared.bindings):
        if binding.queue in declared.queues:
            yield Difference(
                f"binding {binding}",
                "stray",
                "is not declared, and messages come by it",
                "unbind it at the broker when no producer uses it any more",
            )


def _strays(declared: Topology, found: Found) -> Iterator[Difference]:
    stand_ins = {moving_queue(name) for name in declared.queues}
    for name, queue in found.queues.items():
        if name not in declared.queues and name not in stand_ins:
            ttl = (queue.arguments or {}).get("x-message-ttl")
            if ttl is not None:
                text = f"is of a delay that no ladder has now; {queue.messages} wait in it"
                how = f"they are back within {ttl / 1000:g} s; when it is empty, delete it at the broker"
            else:
                text = f"belongs to no consumer now; {queue.messages} messages are in it"
                how = "move them, or let an older version handle them; when it is empty, delete it at the broker"
            yield Difference(f"queue {name}", "stray", text, how)


_APPLY = "`python app.py topology apply` declares what is missing, as every start does"
