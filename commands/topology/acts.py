"""`python app.py topology`: what is declared at the brokers, what they have, and the way from one to the other."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import groupby

import typer

from clients.errors import UpstreamError
from clients.rabbitmq import open_management
from commands.command import Row, confirm, failure, print_json
from commands.command import show as show_rows
from roles.amqp import Broker, MessageRefused
from roles.consume import topology as declarations
from roles.consume.differences import Difference, differences
from roles.consume.handlers import CONSUMERS
from roles.consume.inventory import describe, inventory
from roles.consume.mover import QueueInUse
from roles.consume.names import moving_queue
from roles.consume.recreate import recreation_of, waiting_queues
from roles.consume.survey import Found, survey
from roles.consume.topology import Topology
from roles.consume.validation import validate
from roles.embedded.servers import BrokerPlace, running_brokers
from roles.logs import configure
from schema.errors import ConfigurationError
from schema.settings import Settings
from schema.topics import TOPICS


@dataclass(frozen=True, slots=True)
class _Side:
    """One broker, what is declared there and what it has."""

    broker: Broker
    declared: Topology
    found: Found
    differences: Sequence[Difference]


@asynccontextmanager
async def _surveyed(settings: Settings) -> AsyncIterator[list[_Side]]:
    """All brokers, in the order of the settings, connected until the block ends."""
    configure("plain", "error", stream=sys.stderr)  # standard output is for what was asked for
    validate(CONSUMERS, settings)
    brokers: list[Broker] = []
    try:
        async with running_brokers(settings) as places:
            try:
                sides = []
                for name, place in places.items():
                    broker = Broker(name, place.url, settings.amqp[name])
                    brokers.append(broker)
                    sides.append(await _look(broker, place, settings))
                yield sides
            finally:
                for broker in brokers:
                    await broker.aclose()
    except (UpstreamError, QueueInUse, MessageRefused) as error:
        raise failure(str(error), 1) from error
    finally:
        for broker in brokers:
            broker.cut()


async def _look(broker: Broker, place: BrokerPlace, settings: Settings) -> _Side:
    declared = declarations.topology(CONSUMERS, settings, broker=broker.name, topics=TOPICS)
    timeout = settings.amqp[broker.name].timeout
    async with AsyncExitStack() as stack:
        management = None
        if place.management_url:
            management = await stack.enter_async_context(
                open_management(place.management_url, amqp_url=place.url, vhost=broker.vhost, within=timeout)
            )
        found = await survey(broker, declared, management)
    return _Side(broker, declared, found, differences(declared, found))


async def show(settings: Settings, *, as_json: bool) -> int:
    """Lists what is declared and what is there. Returns the exit code, as the others do."""
    async with _surveyed(settings) as sides:
        rows = [{"broker": side.broker.name, **row} for side in sides for row in inventory(side.declared, side.found)]
    if not as_json:
        rows = [{**row, "arguments": describe(row["arguments"])} for row in rows]
    columns = ("broker", "kind", "name", "state", "messages", "consumers", "arguments")
    show_rows(rows, columns=columns, as_json=as_json, empty="no consumer is declared")
    return 0


async def diff(settings: Settings, *, as_json: bool) -> int:
    """Lists what differs; the exit code is 2 if anything does."""
    async with _surveyed(settings) as sides:
        found = [(side.broker.name, each) for side in sides for each in side.differences]
        blind = [side.broker.name for side in sides if side.found.bindings is None]
    if as_json:
        print_json([{"broker": name, **asdict(each)} for name, each in found])
        return 2 if found else 0
    for remedy, alike in groupby(found, key=lambda pair: pair[1].remedy):
        for name, each in alike:
            typer.echo(f"{name}: {each.subject}: {each.text}")
        typer.echo(f"    {remedy}")
    if not found:
        typer.echo("nothing differs")
    for name in blind:
        typer.echo(f"{name}: bindings and strays cannot be seen without amqp.{name}.management_url")
    return 2 if found else 0


async def apply(settings: Settings, *, recreate: Collection[str], as_json: bool, yes: bool) -> int:
    """Declares what is missing, after the queues `recreate` were made anew.

    Raises:
        ConfigurationError: something else differs, and stays so.
    """
    async with _surveyed(settings) as sides:
        targets = {name: _side_of(name, sides) for name in dict.fromkeys(recreate)}
        _refuse_what_stays_different(sides, recreate)
        plan = [line for name, side in targets.items() for line in _plan(name, side)]
        plan += [f"declare {each.subject}" for side in sides for each in side.differences if each.kind == "missing"]
        if not plan:
            typer.echo("[]" if as_json else "nothing to do: all that is declared is there")
        else:
            typer.echo("\n".join(plan), err=as_json)
            confirm("Do it?", yes=yes)
        done: list[Row] = []
        for name, side in targets.items():
            if _plan(name, side):
                moved = await _recreate(name, side, quiet=as_json)
                done.append({"broker": side.broker.name, "subject": f"queue {name}", "messages": moved})
        for side in sides:
            await _declare(side, settings)
            missing = [each for each in side.differences if each.kind == "missing"]
            done += [{"broker": side.broker.name, "subject": each.subject, "messages": None} for each in missing]
    if plan and as_json:
        print_json(done)
    elif plan:
        typer.echo("done")
    return 0


def _side_of(queue: str, sides: Sequence[_Side]) -> _Side:
    for side in sides:
        if queue in side.declared.queues:
            return side
    known = ", ".join(name for side in sides for name in side.declared.queues)
    raise ConfigurationError(f"--recreate {queue}: no consumer declares this queue; the queues are {known}")


def _refuse_what_stays_different(sides: Sequence[_Side], recreate: Collection[str]) -> None:
    """Raises ConfigurationError: declaring anything would fail at these, or go past them."""
    wrong = [
        str(each)
        for side in sides
        for each in side.differences
        if each.kind in ("other", "unfinished") and each.subject.removeprefix("queue ") not in recreate
    ]
    if wrong:
        raise ConfigurationError("\n".join(wrong))


def _plan(queue: str, side: _Side) -> list[str]:
    """What making the queue anew means, in lines; none if it is as declared."""
    if not any(each.kind in ("other", "unfinished") for each in side.differences if each.subject == f"queue {queue}"):
        return []
    found = side.found
    waiting = sum(found.queues[name].messages for name in waiting_queues(queue, found))
    here = found.queues[queue].messages if queue in found.queues else 0
    there = found.queues[stand_in].messages if (stand_in := moving_queue(queue)) in found.queues else 0
    lines = [f"make queue {queue} anew, with its {here + there} messages; their order is not kept"]
    if waiting:
        lines.append(f"  the {waiting} messages that wait for another attempt at it do not wait any longer")
    lines.append("  stop the application first, all replicas, and producers that publish to the queue by its name")
    if found.bindings is None:
        lines.append("  bindings that others have made are not seen without management_url, and are lost")
    return lines


async def _recreate(queue: str, side: _Side, *, quiet: bool) -> int:
    recreation = recreation_of(queue, side.broker, side.declared, side.found)
    if not quiet:
        recreation.told = typer.echo
    return await recreation.run()


async def _declare(side: _Side, settings: Settings) -> None:
    """Everything, also what seems to be there: of bindings that may not be known."""
    channel = await side.broker.channel("publish")
    for name, kind in side.declared.exchanges.items():
        await channel.declare_exchange(name, kind)
    for each in CONSUMERS:
        if each.broker == side.broker.name:
            await declarations.declare(channel, each, delivery_limit=settings.consume.delivery_limit)
    await channel.aclose()
