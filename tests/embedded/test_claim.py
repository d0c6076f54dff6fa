"""One process at a time per directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from roles.embedded.claim import claim, is_claimed_elsewhere
from schema.errors import ConfigurationError
from tests.embedded.support import another_process

CLAIM = """
import signal, sys
from pathlib import Path
from roles.embedded.claim import claim
claim(Path(sys.argv[1]))
print("claimed", flush=True)
signal.pause()
"""


def test_a_second_process_is_told_who_has_the_directory_and_what_to_do(tmp_path: Path) -> None:
    with another_process(CLAIM, str(tmp_path)) as first, pytest.raises(ConfigurationError) as refused:
        claim(tmp_path)
    assert f"process {first.pid} " in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    for way_out in ("embedded.directory", "database.url", "amqp.example.url"):
        assert way_out in str(refused.value)


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    with another_process(CLAIM, str(tmp_path)) as first:
        assert is_claimed_elsewhere(tmp_path)
        first.die()
        claim(tmp_path)


def test_a_process_may_claim_again_what_it_has(tmp_path: Path) -> None:
    claim(tmp_path)
    claim(tmp_path)
    assert not is_claimed_elsewhere(tmp_path)


def test_a_directory_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    assert not is_claimed_elsewhere(tmp_path / "missing")
