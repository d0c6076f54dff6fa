from __future__ import annotations

from functools import partial
from typing import cast

import pytest

from tests.web.support import ServerName, StartServer, running_server


@pytest.fixture(params=["hypercorn", "granian"])
def server_name(request: pytest.FixtureRequest) -> ServerName:
    """Each test that asks for it runs on each server."""
    return cast("ServerName", request.param)


@pytest.fixture
def start_server(server_name: ServerName) -> StartServer:
    """Starts a server with an application of the test's own: `async with start_server() as server`."""
    return partial(running_server, server_name)
