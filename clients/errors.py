"""What can go wrong with another service.

```
UpstreamError
├── UpstreamUnavailable    it cannot be reached, or it says that it is in trouble (5xx)
├── UpstreamTimeout        it did not answer in time
└── UpstreamInvalid        it answered something that makes no sense to us
```
They are no `DependencyUnavailable`: when a stranger's service is away, our database and broker are not. A consumer
that calls it retries its message, and leaves the queue running; no role becomes unready.
"""

from __future__ import annotations


class UpstreamError(Exception):
    """A service failed us. The message names it, what was asked, and what came back."""


class UpstreamUnavailable(UpstreamError):
    """It cannot be reached, or it says that it is in trouble."""


class UpstreamTimeout(UpstreamError):
    """It did not answer in time."""


class UpstreamInvalid(UpstreamError):
    """It answered something that makes no sense to us."""
