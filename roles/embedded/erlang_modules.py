"""Which modules a RabbitMQ node loads as it starts: all of its applications, and of those that they stand on.

Left to itself it loads them one after the other, more than a thousand, and Erlang makes its table of exported
functions anew for each: a third of the CPU time of a start. Told of them all at once, it does so once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from roles.embedded.rabbitmq_source import Native

_NEEDED = re.compile(r"\{\s*applications\s*,\s*\[([^]]*)\]")
_COMMENT = re.compile(r"%.*")


def modules_of(source: Native, applications: Iterable[str]) -> list[str]:
    """The modules of applications and of what they need, as far as they lie in directories: of an archive there is
    nothing to see, and nothing to gain.

    Params:
        applications: by name, such as `rabbitmq_management`.
    """
    libraries = (source.script.parent.parent / "plugins", source.erlang.parent / "lib")
    found: dict[str, list[str]] = {}
    wanted = list(applications)
    while wanted:
        name = wanted.pop()
        if name not in found:
            directory = _directory(libraries, name)
            found[name] = [beam.stem for beam in directory.glob("*.beam")] if directory else []
            wanted += _needed(directory / f"{name}.app") if directory else []
    return [module for modules in found.values() for module in modules]


def _directory(libraries: Sequence[Path], name: str) -> Path | None:
    """Where the application's modules are: `name-version/ebin`."""
    for library in libraries:
        for found in library.glob(f"{name}-[0-9]*/ebin"):
            return found
    return None


def _needed(description: Path) -> list[str]:
    """The applications that one needs, as its `.app` file says it."""
    found = _NEEDED.search(_COMMENT.sub("", description.read_text("utf-8", "replace")))
    return [name.strip(" \t\r\n'") for name in found[1].split(",") if name.strip()] if found else []
