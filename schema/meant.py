"""Names that do not exist, and the one that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """What to say of a name that is none of `known`: which of them comes nearest, whatever its case.

    Params:
        otherwise: what to say if none comes near; by default which there are.
    """
    names = {each.casefold(): each for each in known}
    nearest = get_close_matches(name.casefold(), names, n=1)
    if nearest:
        return f"did you mean {names[nearest[0]]!r}?"
    return f"known are {', '.join(names.values()) or 'none'}" if otherwise is None else otherwise
