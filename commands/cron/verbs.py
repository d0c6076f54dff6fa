"""The command lines of `cron …`. What they do is imported on use, so that a container loads only what it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from commands.command import Json

cli = typer.Typer(
    help="See, explain and steer the cron jobs. Times are read and shown in the zone of the job.",
    no_args_is_help=True,
)

Limit = Annotated[int, typer.Option(metavar="N", min=1, help="No more than so many.")]


@cli.command()
def preview(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", help="Five fields, or six with the seconds first, or @daily: in quotes.")
    ],
    *,
    zone: Annotated[
        str, typer.Option(metavar="ZONE", help="Whose clocks it is read on, such as Europe/Berlin.")
    ] = "UTC",
    days: Annotated[int, typer.Option(metavar="N", min=1, max=36500, help="For so many days.")] = 7,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this time on, not from now.")
    ] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Show when an expression would be due, with the changes of the clocks marked.

    It needs no database: `cron preview "30 2 * * *" --zone Europe/Berlin --days 3 --from 2026-10-24`
    """
    from commands.cron import preview as verb

    verb.preview(expression, zone=zone, start=start, now=_now(), days=days, limit=limit, as_json=as_json)


def _now() -> datetime:
    return datetime.now(UTC)
