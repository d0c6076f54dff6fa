from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote
from uuid import uuid4

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from yarl import URL

from roles.amqp import BrokerUnavailable
from roles.amqp.broker import Broker
from roles.amqp.channel import Channel
from schema.settings import Amqp
from tests.amqp.support import FAST, connected, eventually, mute_peer, proxied
from tests.services import RabbitServer

pytestmark = pytest.mark.anyio


async def test_nobody_there() -> None:
    with pytest.raises(BrokerUnavailable, match=r"broker example at 127\.0\.0\.1:9"):
        async with connected("amqp://u:secret@127.0.0.1:9/"):
            pass


async def test_a_peer_that_says_nothing() -> None:
    quick = Amqp.model_validate({"timeout": "200ms"})
    async with mute_peer() as url:
        with anyio.fail_after(60), pytest.raises(BrokerUnavailable, match="no answer within 200ms"):
            async with connected(url, settings=quick):
                pass


async def test_a_wrong_password(amqp_url: str) -> None:
    wrong = str(URL(amqp_url).with_password("wrong"))

    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED") as caught:
        async with connected(wrong):
            pass
    assert "wrong" not in str(caught.value)


async def test_a_virtual_host_that_is_not_there(amqp_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match="vhost nowhere not found"):
        async with connected(str(URL(amqp_url).with_path("/nowhere"))):
            pass


async def test_a_peer_that_speaks_something_else() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def speak(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, speak)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(BrokerUnavailable):
            async with connected(f"amqp://u:p@127.0.0.1:{port}/"):
                pass
        group.cancel_scope.cancel()


@pytest.fixture
def odd_login(rabbitmq: RabbitServer, amqp_url: str) -> Iterator[str]:
    """The URL of a user whose name and password are full of what URLs give a meaning to."""
    user, password, vhost = f"us@er:/?#%é {uuid4().hex[:6]}", "p@ss:/?#%&+ ü", URL(amqp_url).path[1:]
    name = quote(user, safe="")
    rabbitmq.api.put(f"/users/{name}", json={"password": password, "tags": ""}).raise_for_status()
    permissions = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.api.put(f"/permissions/{vhost}/{name}", json=permissions).raise_for_status()
    host = URL(amqp_url)
    yield f"amqp://{name}:{quote(password, safe='')}@{host.host}:{host.port}/{vhost}"
    rabbitmq.api.delete(f"/users/{name}").raise_for_status()


async def test_user_and_password_may_hold_any_character(odd_login: str) -> None:
    async with connected(odd_login) as connection:
        channel = await Channel.open(connection)
        await channel.declare_queue("q", {})


async def test_the_broker_knows_who_is_connected(rabbitmq: RabbitServer, amqp_url: str) -> None:
    def named() -> bool:
        connections = rabbitmq.api.get("/connections").json()
        names = {each.get("client_properties", {}).get("connection_name") for each in connections}
        return any(name and name.startswith("rolecall consume@") for name in names)

    async with connected(amqp_url):
        await eventually(named)


async def test_a_half_open_connection_is_lost_within_a_few_heartbeats(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy, connected(proxy.url) as connection:
        channel = await Channel.open(connection)
        proxy.silent = True

        with anyio.fail_after(60):
            await channel.lost.wait()
    assert "no heartbeat" in channel.reason


async def test_a_call_that_is_not_answered_cuts_the_connection(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy, connected(proxy.url) as connection:
        first, second = await Channel.open(connection), await Channel.open(connection)
        proxy.silent = True

        with anyio.fail_after(60), pytest.raises(BrokerUnavailable, match=r"no answer to queue\.declare within 2s"):
            await first.declare_queue("q", {})

        with anyio.fail_after(60):
            await second.lost.wait()
        assert connection.lost.is_set()


async def test_an_idle_connection_stays(amqp_url: str) -> None:
    async with connected(amqp_url) as connection:
        channel = await Channel.open(connection)
        with anyio.move_on_after(5):
            await channel.lost.wait()

        await channel.declare_queue("q", {})


async def test_a_broker_opens_its_connection_again(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy:
        broker = Broker("example", proxy.url, FAST)
        first = await broker.channel("consume")
        await proxy.sever()
        with anyio.fail_after(60):
            await first.lost.wait()

        second = await broker.channel("consume")

        await second.declare_queue("q", {})
        await broker.aclose()


async def test_those_who_wait_for_the_same_connection_share_its_failure() -> None:
    async with mute_peer() as url, anyio.create_task_group() as group:
        broker = Broker("example", url, Amqp.model_validate({"timeout": "300ms"}))
        failures: list[BrokerUnavailable] = []

        async def fail() -> None:
            with pytest.raises(BrokerUnavailable) as caught:
                await broker.channel("consume")
            failures.append(caught.value)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as waiting:
                for _ in range(5):
                    waiting.start_soon(fail)
        assert len({str(failure) for failure in failures}) == 1
        group.cancel_scope.cancel()


async def test_closing_takes_no_longer_than_the_deadline(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy:
        broker = Broker("example", proxy.url, FAST)
        await broker.channel("consume")
        proxy.silent = True

        with anyio.fail_after(60):
            await broker.aclose()


async def test_cancelling_a_call_ends_no_more_than_its_scope(amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy, connected(proxy.url) as connection:
        channel = await Channel.open(connection)
        proxy.silent = True

        with anyio.move_on_after(0.2) as scope:
            await channel.declare_queue("q", {})

        assert scope.cancelled_caught
        await anyio.lowlevel.checkpoint()
