"""The steps that tests can die at."""

from __future__ import annotations

from schema.steps import Step, observe, reached


def test_whoever_observes_is_told_of_each_step() -> None:
    seen: list[Step] = []
    observe(seen.append)
    try:
        reached(Step.CONSUME_CLAIMED)
    finally:
        observe(None)
    reached(Step.CONSUME_ACKED)
    assert seen == [Step.CONSUME_CLAIMED]
