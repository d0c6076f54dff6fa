from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.clients.stub import Stub, running_stub


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stub]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with running_stub() as stub:
        yield stub
