"""What a bench prints: medians, ratios within rounds, and under which circumstances they came about."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

RATIOS = "Ratios: so many times as fast is Rolecall, by the clock and by CPU time; medians of those within a round."


@dataclass(frozen=True, slots=True)
class Result:
    """What a candidate did in one round."""

    rate: float
    """Units of work per second."""
    cpu: float
    """Microseconds of its CPU time per unit of work."""

    @property
    def busy(self) -> float:
        """The share of its core that it used: much less than 1, and something else was the bottleneck."""
        return self.rate * self.cpu / 1e6


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median, over the rounds, of ours divided by theirs in the same round."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def faster(ours: Sequence[Result], theirs: Sequence[Result]) -> float:
    """So many times as fast are we."""
    return ratio([result.rate for result in ours], [result.rate for result in theirs])


def cheaper(ours: Sequence[Result], theirs: Sequence[Result]) -> float:
    """So many times our CPU time do they take."""
    return ratio([result.cpu for result in theirs], [result.cpu for result in ours])


def comparison(work: str, unit: str, found: Mapping[str, Sequence[Result]]) -> str:
    """The table of one kind of work, a row per candidate; the first is us."""
    ours = next(iter(found.values()))
    return table(
        (work, f"{unit}s/s", f"CPU per {unit}", "of its core", "ratio", "ratio by CPU"),
        (
            (
                name,
                f"{median(result.rate for result in theirs):,.0f}",
                f"{median(result.cpu for result in theirs):,.0f} µs",
                f"{median(result.busy for result in theirs):.0%}",
                f"{faster(ours, theirs):.2f}",
                f"{cheaper(ours, theirs):.2f}",
            )
            for name, theirs in found.items()
        ),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned; all columns but the first to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in [cells[0], rule, *cells[1:]]
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(what: str, value: float, target: float, unit: str, *, at_most: bool = False) -> str:
    """One line: what was reached, what was to be reached, and whether it was."""
    met = value <= target if at_most else value >= target
    sign = "≤" if at_most else "≥"
    return f"{'met' if met else 'MISSED'}: {what} {value:.2f}{unit} (target {sign} {target:g}{unit})"


def circumstances(module: str, distributions: Iterable[str]) -> str:
    """When, where, with which versions, and by which command."""
    versions = ", ".join(f"{name} {version(name)}" for name in distributions)
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, `{command}`, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores ({_processor()}), load average {os.getloadavg()[0]:.1f}.\n{versions}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
