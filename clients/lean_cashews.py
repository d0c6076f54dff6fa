"""cashews without SQLAlchemy's ORM, which it would import for a pickler that is not used here.

That would be a tenth of the time that the process takes to start, and 6 MB of its memory.
"""

import sys

_PICKLER = "sqlalchemy.ext.serializer"
_hidden = sys.modules.setdefault(_PICKLER, None) is None  # type: ignore[arg-type]  # None: not to be imported

import cashews  # noqa: E402
from cashews.backends.memory import Memory  # noqa: E402
from cashews.exceptions import BackendNotAvailableError, CacheBackendInteractionError  # noqa: E402
from cashews.picklers import PicklerType  # noqa: E402

if _hidden:
    del sys.modules[_PICKLER]

__all__ = ["BackendNotAvailableError", "CacheBackendInteractionError", "Memory", "PicklerType", "cashews"]
