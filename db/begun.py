"""What is left of a generator, or of a coroutine, after the first of its steps was taken by hand.

Most of what is awaited here does not wait. To see whether it does, it is stepped once; and if it does, the rest of it
goes where all of it would have gone otherwise.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Self


class Rest:
    """An iterator for `yield from`, and for whatever steps generators.

    Params:
        begun: what was stepped.
        yielded: what it waits for.
        interruption: raised in place of that, the first time.
    """

    def __init__(
        self,
        begun: Generator[Any, Any, Any] | Coroutine[Any, Any, Any],
        yielded: Any,
        interruption: BaseException | None = None,
    ) -> None:
        self._interruption = interruption
        self._yielded = [yielded]
        self.send, self.throw, self.close = begun.send, begun.throw, begun.close

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._interruption is not None:
            interruption, self._interruption = self._interruption, None
            raise interruption
        return self._yielded.pop() if self._yielded else self.send(None)
