"""Who may call a route: `@requires("students:write")`, or `@public`. Every route says one of the two.

```
@blueprint.post("")
@requires("students:write")       # enforced before anything else of the request is looked at, and documented
async def create_student(…): …
```
The decorators only mark the function, so their place among the others does not matter. `roles.api.guard` enforces
what they say, `roles.api.openapi` documents it, and a route that says neither ends the process at its start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from quart import Quart

from schema.errors import ConfigurationError

View = TypeVar("View", bound=Callable[..., Any])

SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
"""What a scope looks like (RFC 6749 §3.3)."""

_MARK: Final = "_rolecall_access"


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks of its callers.

    Params:
        scopes: all that a caller needs; with none, every known caller may. None opens the route to everybody.
    """

    scopes: frozenset[str] | None


def requires(*scopes: str) -> Callable[[View], View]:
    """For callers with all of these scopes; without any, for every known caller.

    Raises:
        ValueError: one of them cannot be a scope.
    """
    for scope in scopes:
        if not SCOPE.fullmatch(scope):
            raise ValueError(f"{scope!r} is not a scope (try 'students:write')")
    return _marking(Access(frozenset(scopes)))


def public(view: View) -> View:
    """For everybody, known or not."""
    return _marking(Access(None))(view)


def access_of(view: Callable[..., Any]) -> Access | None:
    """What the decorators of a route say; None if there are none."""
    found: Access | None = getattr(view, _MARK, None)
    return found


def access_rules(app: Quart) -> dict[str, Access]:
    """What each endpoint asks of its callers.

    Raises:
        ConfigurationError: of some routes nobody has said it; the message names them.
    """
    views = app.view_functions
    silent = [rule for rule in app.url_map.iter_rules() if access_of(views[rule.endpoint]) is None]
    if silent:
        remedy = 'add @requires("…") or @public, from roles.api.access'
        raise ConfigurationError(
            "\n".join(
                f"{views[rule.endpoint].__module__}: {views[rule.endpoint].__name__}: the route {rule.rule} does not "
                f"say who may call it: {remedy}"
                for rule in silent
            )
        )
    return {endpoint: access for endpoint, view in views.items() if (access := access_of(view)) is not None}


def known_scopes(app: Quart) -> frozenset[str]:
    """Every scope that some route asks for."""
    return frozenset().union(*(access.scopes or () for access in access_rules(app).values()))


def _marking(access: Access) -> Callable[[View], View]:
    def mark(view: View) -> View:
        setattr(view, _MARK, access)
        return view

    return mark
