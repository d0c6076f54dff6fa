"""The command lines of `parked …`. What they do is imported on use, so that a container loads only what it runs."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from commands.command import MOST, ConfigFile, Json, Yes, exit_with, load, who
from commands.parked.selection import Selection, StatusChoice
from db.parked_messages import Status

cli = typer.Typer(help="Find, understand, mend and replay parked messages.", no_args_is_help=True)

LARGEST = 2**63 - 1
"""The last number that the column has."""

Id = Annotated[
    int,
    typer.Argument(metavar="ID", min=1, max=LARGEST, help="The number of a message, as `parked list` shows it."),
]
Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", min=1, max=LARGEST, help="Numbers, as `parked list` shows them."),
]
Queue = Annotated[str | None, typer.Option(metavar="QUEUE", help="Only those of this consumer.")]
Error = Annotated[str | None, typer.Option(metavar="TEXT", help="Only those whose error contains this.")]
Older = Annotated[str | None, typer.Option(metavar="AGE", help="Only those parked longer ago: 2h.")]
Newer = Annotated[str | None, typer.Option(metavar="AGE", help="Only those parked more recently: 1d.")]
All = Annotated[bool, typer.Option("--all", help="All of them, if no id and no filter says which.")]
Oldest = Annotated[int | None, typer.Option(metavar="N", min=1, max=MOST, help="The oldest so many.")]
InStatus = Annotated[Status, typer.Option(help="Those that are in this state.")]
Note = Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for those who look at it later.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who does it; by default login@host.")]


@cli.command("list")
def list_messages(
    context: typer.Context,
    config_file: ConfigFile = None,
    *,
    queue: Queue = None,
    error: Error = None,
    older: Older = None,
    newer: Newer = None,
    status: Annotated[StatusChoice, typer.Option(help="Those that are in this state.")] = StatusChoice.OPEN,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help="The newest so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what is in the parking lot, the newest first."""
    from commands.parked import showing

    selection = Selection(
        queue=queue, error=error, older=older, newer=newer, status=status.status, everything=True, limit=limit
    )
    verb = partial(showing.list_messages, selection=selection, as_json=as_json)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def show(
    context: typer.Context,
    parked_id: Id,
    config_file: ConfigFile = None,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Write the body alone, byte for byte.")] = False,
    as_json: Json = False,
) -> None:
    """Show a message: why it is here, what was done with it, whether it took effect after all, and its body."""
    from commands.parked import showing

    verb = partial(showing.show_message, parked_id=parked_id, as_json=as_json, raw=raw)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def replay(
    context: typer.Context,
    ids: Ids = None,
    config_file: ConfigFile = None,
    *,
    queue: Queue = None,
    error: Error = None,
    older: Older = None,
    newer: Newer = None,
    status: InStatus = Status.OPEN,
    everything: All = False,
    limit: Oldest = None,
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="No faster than this: 10/s, 100/m.")] = None,
    note: Note = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Send messages to their queues once more, with their ids, and a ladder that starts afresh.

    Can be interrupted: what was replayed by then is marked, the rest is as it was. A message that took effect after
    all is dropped as a duplicate.
    """
    from commands.parked import acts

    selection = _selection(ids, queue, error, older, newer, status=status, everything=everything, limit=limit)
    verb = partial(acts.replay, selection=selection, rate=rate, note=note, by=by or who(), yes=yes)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def drop(
    context: typer.Context,
    ids: Ids = None,
    config_file: ConfigFile = None,
    *,
    queue: Queue = None,
    error: Error = None,
    older: Older = None,
    newer: Newer = None,
    status: InStatus = Status.OPEN,
    everything: All = False,
    limit: Oldest = None,
    note: Note = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Give messages up. They are kept for a while: `parked replay --status dropped` takes it back."""
    from commands.parked import acts

    selection = _selection(ids, queue, error, older, newer, status=status, everything=everything, limit=limit)
    verb = partial(acts.drop, selection=selection, note=note, by=by or who(), yes=yes)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def edit(
    context: typer.Context,
    parked_id: Id,
    config_file: ConfigFile = None,
    *,
    body: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take the body from a file, or from a pipe (-).")
    ] = None,
    note: Note = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Give a message another body, in $EDITOR or from a file. The consumer's model checks it."""
    from commands.parked import editing
    from roles.consume.handlers import CONSUMERS

    verb = partial(
        editing.edit_message,
        parked_id=parked_id,
        source=body,
        note=note,
        by=by or who(),
        yes=yes,
        consumers=CONSUMERS,
    )
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def rehearse(
    context: typer.Context,
    parked_id: Id,
    config_file: ConfigFile = None,
    *,
    as_json: Json = False,
) -> None:
    """Run the handler on a message in a transaction that is rolled back, and tell what happened.

    Nothing is stored, published or acked. What the handler does outside the database, it does for real.
    """
    from commands.parked import rehearsing
    from roles.consume.handlers import CONSUMERS

    verb = partial(rehearsing.rehearse, parked_id=parked_id, consumers=CONSUMERS, as_json=as_json)
    exit_with(verb, load(context, config_file).settings)


def _selection(
    ids: list[int] | None,
    queue: str | None,
    error: str | None,
    older: str | None,
    newer: str | None,
    *,
    status: Status,
    everything: bool,
    limit: int | None,
) -> Selection:
    return Selection(
        ids=tuple(dict.fromkeys(ids or ())),
        queue=queue,
        error=error,
        older=older,
        newer=newer,
        status=status,
        everything=everything,
        limit=limit,
    )
