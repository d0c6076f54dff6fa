"""The command lines of `cron …`. What they do is imported on use, so that a container loads only what it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from commands.command import MOST, ConfigFile, Json, exit_with, load
from db.cron_runs import RunStatus

if TYPE_CHECKING:
    from roles.schedule.declarations import Job

cli = typer.Typer(
    help="See, explain and steer the cron jobs. Times are read and shown in the zone of the job.",
    no_args_is_help=True,
)

JobName = Annotated[str, typer.Argument(metavar="JOB", help="The name of a job, as `cron list` shows it.")]
Limit = Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help="No more than so many.")]
SINCE = "A time, or so long ago: 7d."


@cli.command("list")
def list_jobs(
    context: typer.Context,
    config_file: ConfigFile = None,
    *,
    since: Annotated[str, typer.Option(metavar="TIME", help=f"When the figures begin. {SINCE}")] = "7d",
    as_json: Json = False,
) -> None:
    """Show each job: its next five ticks, its latest row in the book, and how it went: success, mean and p95."""
    from commands.cron import listing

    verb = partial(listing.list_jobs, since=since, jobs=_jobs(), now=_now(), as_json=as_json)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def runs(
    context: typer.Context,
    job: JobName,
    config_file: ConfigFile = None,
    *,
    status: Annotated[
        list[RunStatus] | None, typer.Option(help="Only what came to this; may be given several times.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"Only what was due since then. {SINCE}")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show what the book has of a job, the newest first. The first column is what `cron show` takes."""
    from commands.cron import runs as verbs

    verb = partial(
        verbs.list_runs,
        name=job,
        statuses=status or list(RunStatus),
        since=since,
        limit=limit,
        jobs=_jobs(),
        now=_now(),
        as_json=as_json,
    )
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def show(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="JOB@TIME, as `cron runs JOB` prints it.")],
    config_file: ConfigFile = None,
    *,
    as_json: Json = False,
) -> None:
    """Show one row of the book with all that it has, the whole traceback of a failure included."""
    from commands.cron import runs as verbs

    exit_with(partial(verbs.show_run, run=run, jobs=_jobs(), as_json=as_json), load(context, config_file).settings)


@cli.command()
def why(
    context: typer.Context,
    job: JobName,
    time: Annotated[
        str,
        typer.Argument(metavar="TIME", help="2026-10-25T02:30 in the zone of the job, or with an offset: …+01:00."),
    ],
    config_file: ConfigFile = None,
    *,
    as_json: Json = False,
) -> None:
    """Say why a job did or did not run at a time."""
    from commands.cron import why as verbs

    verb = partial(verbs.explain, name=job, time=time, jobs=_jobs(), now=_now(), as_json=as_json)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def run(context: typer.Context, job: JobName, config_file: ConfigFile = None, *, as_json: Json = False) -> None:
    """Run a job here and now, whether it is paused or not, and show its row in the book.

    It goes through the same claim as a tick, with the trigger "manual" and your name, and takes no tick away. While
    another run of the job goes on it is skipped, or waits for that one to end, as the job says (overlap). Its logs
    are on standard error. Exit code 1: it failed, or was skipped.
    """
    from commands.cron import by_hand

    exit_with(partial(by_hand.run_job, name=job, jobs=_jobs(), as_json=as_json), load(context, config_file).settings)


@cli.command()
def pause(
    context: typer.Context,
    job: JobName,
    config_file: ConfigFile = None,
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for those who will wonder.")] = None,
    as_json: Json = False,
) -> None:
    """Pause a job on all replicas: its ticks are skipped, and in the book as such, until it is resumed."""
    from commands.cron import pausing

    verb = partial(pausing.pause, name=job, reason=reason, jobs=_jobs(), as_json=as_json)
    exit_with(verb, load(context, config_file).settings)


@cli.command()
def resume(context: typer.Context, job: JobName, config_file: ConfigFile = None, *, as_json: Json = False) -> None:
    """Let a paused job run again, from its next tick on."""
    from commands.cron import pausing

    exit_with(partial(pausing.resume, name=job, jobs=_jobs(), as_json=as_json), load(context, config_file).settings)


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


def _jobs() -> tuple[Job, ...]:
    """All that there are, the built-in ones last."""
    from roles.schedule.jobs import JOBS
    from roles.schedule.jobs.pruning import BUILT_IN

    return (*JOBS, *BUILT_IN)


def _now() -> datetime:
    return datetime.now(UTC)
