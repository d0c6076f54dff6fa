"""What became of a tick, and why: judged from its schedule, the book, the pauses and the locks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from commands.cron.times import clock, local, took
from db.cron_pauses import CronPause
from db.cron_runs import CronRun, RunStatus, Trigger
from roles.schedule.clocks import SECOND, wall_time
from roles.schedule.cron import EPOCH, CronSchedule
from roles.schedule.declarations import Job
from roles.schedule.expression import parse
from roles.schedule.policy import Timetable
from schema.duration import format_duration

MOMENT: Final = timedelta.resolution


class Answer(StrEnum):
    """What became of a tick, or why there is none."""

    NOT_DUE = "not due"
    NOT_YET = "not yet"
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"
    MISSED = "missed"
    RUNNING = "running"
    CUT_OFF = "cut off"
    """A long run whose lease has expired."""
    OPEN = "open"
    """Due, and nobody has dealt with it."""
    UNKNOWN_JOB = "never seen"
    """The book has no tick of the job at all."""
    BEFORE = "before the job"
    """The job was first seen later."""
    PRUNED = "pruned"
    """Older than the book is."""
    LOST = "no row"
    """Later ticks have a row, and this one has none."""
    BY_HAND = "by hand"
    """No tick, but somebody had the job run at this moment."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a job at a moment."""

    table: Timetable
    at: datetime
    now: datetime
    rows: list[CronRun]
    """Of this moment."""
    row: CronRun | None
    """The row that tells of the tick: its own, or one that stands for many in a row."""
    first: CronRun | None
    """The first tick in the book."""
    last: CronRun | None
    """The last one."""
    pause: CronPause | None
    """In force now."""
    running_since: datetime | None
    """When the transaction began that deals with the tick."""

    @property
    def job(self) -> Job:
        return self.table.job

    @property
    def is_due(self) -> bool:
        """Whether there is a tick at all."""
        return self.job.schedule.next_due(self.at - MOMENT) == self.at

    @property
    def previous(self) -> datetime | None:
        """When the job was due before."""
        return self.job.schedule.latest(EPOCH, self.at - MOMENT)

    @property
    def following(self) -> datetime:
        """When it is due afterwards."""
        return self.job.schedule.next_due(self.at)


def judge(facts: Facts) -> tuple[Answer, str]:
    """The answer, and the reason for people."""
    if not facts.is_due:
        return _not_due(facts)
    if facts.row is not None:
        return _by_row(facts, facts.row)
    if facts.running_since is not None:
        since = local(facts.running_since, facts.job.schedule.zone)
        return Answer.RUNNING, f"a replica is dealing with it, in a transaction that began at {since}"
    if facts.table.starts_at(facts.at) > facts.now:
        return _not_yet(facts)
    return _without_row(facts)


def _not_yet(facts: Facts) -> tuple[Answer, str]:
    starts_at = facts.table.starts_at(facts.at)
    says = f"it is to start in {took((starts_at - facts.now).total_seconds())}"
    if starts_at > facts.at:
        says += f", {took((starts_at - facts.at).total_seconds())} after it is due (jitter)"
    if facts.pause is not None:
        says += f"; the job is paused {facts.pause.in_words}"
    return Answer.NOT_YET, says


def _not_due(facts: Facts) -> tuple[Answer, str]:
    by_hand = next((row for row in facts.rows if row.trigger is Trigger.MANUAL), None)
    if by_hand is not None:
        return Answer.BY_HAND, f"it was no tick: {by_hand.triggered_by} had it run, and it {_ended(by_hand)}"
    schedule = facts.job.schedule
    if isinstance(schedule, CronSchedule):
        wall = wall_time(facts.at, schedule.zone)
        if parse(schedule.expression).following(wall - SECOND) == wall:
            return Answer.NOT_DUE, f"clocks show {clock(wall)} for the second time; its tick was when they first did"
    return Answer.NOT_DUE, f"{schedule} is not due at this moment"


def _ended(run: CronRun) -> str:
    return {RunStatus.CLAIMED: "goes on", RunStatus.SKIPPED: "was skipped"}.get(run.status, run.status.value)


def _by_row(facts: Facts, row: CronRun) -> tuple[Answer, str]:
    zone = facts.job.schedule.zone
    attempts = f" at attempt {row.attempts}" if row.attempts > 1 else ""
    ended = {
        RunStatus.FINISHED: (Answer.FINISHED, f"it ran on {row.host} and finished in {took(row.seconds)}{attempts}"),
        RunStatus.FAILED: (Answer.FAILED, f"it ran on {row.host} and failed{attempts}: {row.reason}"),
        RunStatus.SKIPPED: (Answer.SKIPPED, f"it was not run: {row.reason}"),
        RunStatus.MISSED: (Answer.MISSED, f"it was not run: {row.reason}"),
    }
    if row.through is not None:
        ticks = f"all ticks from {local(row.scheduled_at, zone)} to {local(row.through, zone)}"
        return Answer(row.status.value), f"{ticks} were not run: {row.reason}"
    if row.status in ended:
        return ended[row.status]
    started = f"on {row.host} since {local(row.started_at or row.scheduled_at, zone)}"
    progress = f", {row.progress}" if row.progress else ""
    if row.lease_expires_at is not None and row.lease_expires_at > facts.now:
        return Answer.RUNNING, f"it runs {started}{progress}"
    fate = "it is to be run again elsewhere" if facts.job.rerun else "it is to be marked as failed"
    return Answer.CUT_OFF, f"it ran {started}{progress}; its process died or lost the database: {fate}"


def _without_row(facts: Facts) -> tuple[Answer, str]:
    zone, first, last = facts.job.schedule.zone, facts.first, facts.last
    terms = facts.table.terms
    kept_since = facts.now - terms.retention
    if facts.at < kept_since:
        return Answer.PRUNED, f"rows of this job are kept for {format_duration(terms.retention)}, and it is older"
    if first is None or last is None:
        return Answer.UNKNOWN_JOB, "the book has no tick of this job: no replica that knows it has run yet"
    if facts.at < first.scheduled_at:
        seen = local(first.scheduled_at, zone)
        return Answer.BEFORE, f"the first tick of this job that a replica dealt with is that of {seen}"
    if facts.at < (last.through or last.scheduled_at):
        return Answer.LOST, (
            "later ticks have a row and it has none: it is about to be run again after its process died, "
            "the schedule was another one then, or somebody deleted its row"
        )
    if facts.now <= facts.table.starts_at(facts.at) + terms.grace:
        grace = format_duration(terms.grace)
        return Answer.OPEN, f"it is due, and within its grace of {grace}: a replica is about to start it"
    policy = {
        "skip": "they are missed",
        "latest": "the latest open tick is run and the others are missed",
        "all": f"the last {terms.backlog} open ticks are run and the others are missed",
    }[facts.job.missed]
    latest = local(last.through or last.scheduled_at, zone)
    return Answer.OPEN, (
        f"no replica has dealt with a tick of this job since that of {latest}; "
        f"when one does, {policy} (missed={facts.job.missed!r})"
    )
