"""A circuit breaker: a service that has failed again and again is left alone for a while.

```
closed ──failures in a row──▶ open ──rest──▶ half-open: one call tries it ──▶ closed, or open again
```
While it is open, calls fail at once instead of waiting for a timeout each, and the service has time to recover. A
call that was cancelled says nothing of the service. (Nygard, "Release It!", ch. 5; what PyPI has lets every caller
through when half-open, or takes a cancellation for a success.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog

from clients.errors import UpstreamError, UpstreamInvalid, UpstreamUnavailable

log = structlog.get_logger(__name__)


class Circuit:
    """One service's.

    Params:
        failures: how many in a row open it.
        rest: how long it stays open.
    """

    def __init__(self, name: str, *, failures: int, rest: timedelta) -> None:
        self._name, self._limit, self._rest = name, failures, rest.total_seconds()
        self._failures = 0
        self._open_until = 0.0
        self._trying = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """For one call: what it raises is noted, and passed on.

        Raises:
            UpstreamUnavailable: the service is left alone just now.
        """
        half_open = self._failures >= self._limit
        if half_open:
            left = self._open_until - time.monotonic()
            if left > 0 or self._trying:
                raise UpstreamUnavailable(
                    f"{self._name} service: left alone after {self._failures} failures, "
                    + (f"for {left:.1f} s more" if left > 0 else "while another call tries it")
                )
            self._trying = True
        try:
            yield
        except UpstreamInvalid:  # it answered
            self._succeeded()
            raise
        except UpstreamError:
            self._failed()
            raise
        else:
            self._succeeded()
        finally:
            if half_open:
                self._trying = False

    def _succeeded(self) -> None:
        if self._failures >= self._limit:
            log.info("service is back", service=self._name)
        self._failures = 0

    def _failed(self) -> None:
        self._failures += 1
        now = time.monotonic()
        if self._failures >= self._limit and now >= self._open_until:  # else it is open: this call began before that
            self._open_until = now + self._rest
            log.warning("service left alone", service=self._name, failures=self._failures, seconds=self._rest)
