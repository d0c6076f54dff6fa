"""The verbs `parked …` on a real database: each finds what is meant, does it once, and writes down who did it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import hypothesis
import psycopg
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row
from pydantic import BaseModel, Field, SecretStr

from commands.command import who
from commands.parked.acts import drop, replay
from commands.parked.bodies import as_text, difference, readable
from commands.parked.editing import edit_message
from commands.parked.rehearsing import rehearse
from commands.parked.selection import Selection
from commands.parked.showing import list_messages, show_message
from db import inbox, parked_messages, students
from db.parked_messages import NewParkedMessage, Status
from db.pool import Work, create_pool, current_pool, unit_of_work
from roles.amqp import Properties
from roles.consume import Delivery, consumer
from schema.settings import Database, Settings
from schema.students import STUDENT_CREATED, NewStudent, StudentCreated
from schema.topic import Topic
from tests.e2e.support import APP, ROOT

pytestmark = pytest.mark.anyio

QUEUE = "example.main"
json_bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
NOW = datetime.now(UTC)
Fill = Callable[..., Any]
Out = Callable[[], str]


@consumer(QUEUE)
async def enrol(message: NewStudent, work: Work) -> None:
    created = await students.create(work.connection, message)
    await work.publish(STUDENT_CREATED, StudentCreated(id=created.id), delay="5s")
    if message.name == "bad":
        raise ValueError("no such student")
    if message.name == "worse":
        await work.connection.execute("SELECT 1/0")


@consumer("outside", transaction=False)
async def ship(message: NewStudent, delivery: Delivery) -> None:
    raise AssertionError("it is not rehearsed")


@consumer("many", batch=10)
async def enrol_all(messages: list[NewStudent], work: Work) -> None:
    for message in messages:
        await students.create(work.connection, message)


class Grade(BaseModel):
    mean: float = Field(alias="average")


GRADES = Topic("grades", Grade, exchange="", routing_key="grades")


@consumer("chatty")
async def chat(message: NewStudent, work: Work) -> None:
    print("hello", message.name)  # noqa: T201
    await work.publish(GRADES, Grade(average=float("nan")))


@consumer("odd")
async def do_as_told(message: NewStudent, work: Work) -> None:
    await students.create(work.connection, message)
    if message.name == "cancelled":
        raise asyncio.CancelledError
    if message.name == "exited":
        sys.exit(3)
    if message.name == "timed out":
        await asyncio.sleep(3600)  # noqa: TID251 - as a handler may
    if message.name == "in a long statement":
        await work.connection.execute("SELECT pg_sleep(3600)")
    if message.name == "terminated":
        await work.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    if message.name == "terminated, and caught":
        with suppress(psycopg.OperationalError):
            await work.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    for statement in ENDINGS.get(message.name, ()):
        await work.connection.execute(statement)


ENDINGS = {
    "ended": (b"COMMIT",),
    "begun anew": (b"COMMIT", b"BEGIN"),
    "in one piece": (b"COMMIT; BEGIN; SAVEPOINT mine",),
    "chained": (b"COMMIT AND CHAIN",),
    "failed then": (b"COMMIT", b"BEGIN", b"SELECT 1/0"),
    "rolled back": (b"ROLLBACK", b"BEGIN"),
}


@consumer("unkeyed", key=lambda message: cast("Any", [message.name]))
async def keyed(message: NewStudent, work: Work) -> None:
    raise AssertionError("its key fails before")


CONSUMERS = (enrol, ship, enrol_all, chat, do_as_told, keyed)


@pytest.fixture(scope="module")
def shared_database_url(postgres: Any) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def database_url(shared_database_url: str) -> str:
    with psycopg.connect(shared_database_url) as connection:
        connection.execute("TRUNCATE parked_message, parked_act, outbox, inbox, student RESTART IDENTITY")
    return shared_database_url


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database=Database(url=SecretStr(database_url), pool_min_size=1))


@pytest.fixture
async def fill(settings: Settings) -> AsyncIterator[Fill]:
    """Puts messages into the parking lot; their ids are 1, 2, …"""
    async with create_pool(settings.database.url.get_secret_value(), settings.database) as pool:
        count = 0

        async def put(body: bytes = b'{"name": "Ada"}', **fields: Any) -> int:
            nonlocal count
            count += 1
            properties = fields.pop("properties", Properties({"message_id": b"m%d" % count}))
            values: dict[str, Any] = {
                "broker": "example",
                "queue": QUEUE,
                "message_id": f"m{count}",
                "error": "ValueError: no",
                "attempts": 4,
                "parked_at": NOW,
                "parking": f"p{count}",
                "fingerprint": f"f{count}",
                "note": None,
            }
            token = current_pool.set(pool)
            async with unit_of_work() as work:
                message = NewParkedMessage(body=body, properties=properties.encode(), **values | fields)
                await parked_messages.archive(work.connection, [message])
            current_pool.reset(token)
            return count

        yield put


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Out:
    return lambda: capsys.readouterr().out


def rows(url: str, statement: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(statement.encode()).fetchall()


def states(url: str) -> dict[int, str]:
    return {row["id"]: row["status"] for row in rows(url, "SELECT id, status FROM parked_message ORDER BY id")}


do_replay = partial(replay, rate=None, note=None, by="me@here", yes=True)
do_drop = partial(drop, note=None, by="me@here", yes=True)


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        (Selection(), [4, 3, 2, 1]),
        (Selection(queue="other"), [3]),
        (Selection(error="TIMEOUT"), [2]),
        (Selection(error="100%"), []),
        (Selection(older="2h"), [1]),
        (Selection(newer="2h"), [4, 3, 2]),
        (Selection(limit=2), [4, 3]),
        (Selection(status=Status.DROPPED), []),
        (Selection(status=None), [4, 3, 2, 1]),
    ],
)
async def test_filters(settings: Settings, fill: Fill, out: Out, selection: Selection, ids: list[int]) -> None:
    await fill(parked_at=NOW - timedelta(hours=3))
    await fill(error="HandlerTimeout: too slow")
    await fill(queue="other")
    await fill(message_id=None, fingerprint=None)
    assert await list_messages(settings, selection=selection, as_json=True) == 0
    assert [row["id"] for row in json.loads(out())] == ids


async def test_a_list_for_people(settings: Settings, fill: Fill, out: Out) -> None:
    assert await list_messages(settings, selection=Selection(), as_json=False) == 0
    assert out() == "no message matches\n"
    for _ in range(3):
        await fill(error="E\x1b[31m\x9b31m: [bold]no")
    assert await list_messages(settings, selection=Selection(limit=1), as_json=False) == 0
    shown = out()
    assert "E·[31m·31m: [bold]no" in shown
    assert shown.endswith("… and 2 more (--limit, or filters)\n")


async def test_a_message_is_replayed_as_it_came_but_for_what_we_wrote_on_it(
    settings: Settings, fill: Fill, out: Out, database_url: str
) -> None:
    properties = Properties({"message_id": b"m\xff", "expiration": b"100", "user_id": b"you"}).with_headers(
        {
            "tenant": 7,
            "x-attempt": 4,
            "x-error": "no",
            "x-failed-at": "then",
            "x-failure-id": "1",
            "x-death": "once",
            "x-first-death-queue": "q",
        }
    )
    await fill(properties=properties)
    assert await do_replay(settings, selection=Selection(ids=[1]), note="fixed") == 0
    assert out() == "replayed 1\n"

    (sent,) = rows(database_url, "SELECT *, decode(properties->>'encoded', 'base64') AS encoded FROM outbox")
    assert (sent["broker"], sent["exchange"], sent["routing_key"]) == ("example", "", QUEUE)
    assert sent["body"] == b'{"name": "Ada"}'
    found = Properties.decode(sent["encoded"])
    assert found.fields == {"message_id": b"m\xff"}
    assert set(found.headers) == {b"tenant", b"x-expiration", b"x-user-id"}
    (row,) = rows(database_url, "SELECT * FROM parked_message")
    assert (row["status"], row["resolved_by"], row["note"]) == ("replayed", "me@here", "fixed")
    assert row["resolved_at"] is not None
    (act,) = rows(database_url, "SELECT * FROM parked_act")
    assert (act["act"], act["who"], act["how_many"], act["note"]) == ("replay", "me@here", 1, "fixed")
    assert act["parked_message_id"] == 1


async def test_a_message_without_an_id_gets_one_that_stays_the_same(
    settings: Settings, fill: Fill, database_url: str
) -> None:
    for parking in ("a", "b"):
        await fill(properties=Properties({}), message_id=None, fingerprint=None, parking=parking)
    await do_replay(settings, selection=Selection(everything=True))
    await do_replay(settings, selection=Selection(ids=[1], status=Status.REPLAYED))
    sent = rows(database_url, "SELECT properties->>'message_id' AS id FROM outbox ORDER BY outbox.id")
    first, second, again = (row["id"] for row in sent)
    assert first == again != second


async def test_of_two_people_who_replay_the_same_message_one_does(
    settings: Settings, fill: Fill, database_url: str
) -> None:
    for _ in range(30):
        await fill()
    async with anyio.create_task_group() as group:
        for name in ("me", "you"):
            group.start_soon(
                partial(do_replay, settings, selection=Selection(everything=True), rate="1000/s", by=name)
            )
    assert len(rows(database_url, "SELECT id FROM outbox")) == 30
    assert len(rows(database_url, "SELECT id FROM parked_act")) == 30


async def test_what_was_replayed_when_it_is_interrupted_is_marked_and_the_rest_is_as_it_was(
    settings: Settings, fill: Fill, database_url: str, out: Out
) -> None:
    for _ in range(20):
        await fill()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(do_replay, settings, selection=Selection(everything=True), rate="4/s"))
            while len(rows(database_url, "SELECT id FROM outbox")) < 2:  # noqa: ASYNC110 - in the database
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()
    sent = len(rows(database_url, "SELECT id FROM outbox"))
    assert 2 <= sent < 20
    assert list(states(database_url).values()).count("replayed") == sent
    assert f"replayed {sent} of 20" in out()

    await do_replay(settings, selection=Selection(everything=True))
    assert len(rows(database_url, "SELECT id FROM outbox")) == 20


@pytest.mark.parametrize("do", [do_replay, do_drop])
async def test_large_messages_are_done_a_few_at_a_time(
    settings: Settings, fill: Fill, database_url: str, do: Callable[..., Any]
) -> None:
    for megabytes in (3, 3, 9, 1, 1, 1):
        await fill(b"x" * megabytes * 1024 * 1024)
    assert await do(settings, selection=Selection(everything=True)) == 0
    together = rows(database_url, "SELECT count(*) AS n FROM parked_message GROUP BY xmin::text ORDER BY min(id)")
    assert [each["n"] for each in together] == [1, 1, 1, 3]


async def test_a_rate_spreads_messages_over_time(settings: Settings, fill: Fill, database_url: str) -> None:
    for _ in range(4):
        await fill()
    began = anyio.current_time()
    await do_replay(settings, selection=Selection(everything=True), rate="10/s")
    assert anyio.current_time() - began >= 0.3
    assert len(rows(database_url, "SELECT id FROM outbox")) == 4


@pytest.mark.parametrize("text", ["10", "0/s", "-1/s", "10/d", "ten/s", "/s", "2000000/s"])
async def test_what_is_no_rate(text: str, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        await do_replay(settings, selection=Selection(everything=True), rate=text)
    assert ended.value.exit_code == 2
    assert "(try '10/s'" in capsys.readouterr().err


async def test_a_message_for_a_broker_that_is_not_configured_stays(
    settings: Settings, fill: Fill, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(broker="gone")
    with pytest.raises(typer.Exit) as ended:
        await do_replay(settings, selection=Selection(ids=[1]))
    assert ended.value.exit_code == 2
    assert "[amqp.gone]" in capsys.readouterr().err
    assert states(database_url) == {1: "open"}


MALFORMED = Properties.decode(b"\x20\x00\x00\x00\x00\x02\x09x")
"""Headers of two octets, a name of nine."""


@pytest.mark.parametrize(("status", "fields"), [(2, {"broker": "gone"}), (1, {"properties": MALFORMED})])
async def test_a_message_that_cannot_be_sent_holds_up_no_other(
    settings: Settings,
    fill: Fill,
    database_url: str,
    capsys: pytest.CaptureFixture[str],
    status: int,
    fields: dict[str, Any],
) -> None:
    await fill()
    await fill(**fields)
    await fill()
    with pytest.raises(typer.Exit) as ended:
        await do_replay(settings, selection=Selection(everything=True))
    assert ended.value.exit_code == status
    printed = capsys.readouterr()
    assert "error: message 2 " in printed.err
    assert "replayed 2 of 3" in printed.out
    assert states(database_url) == {1: "replayed", 2: "open", 3: "replayed"}
    assert len(rows(database_url, "SELECT id FROM outbox")) == 2
    acts = rows(database_url, "SELECT parked_message_id AS id FROM parked_act ORDER BY 1")
    assert [act["id"] for act in acts] == [1, 3]


async def test_dropped_messages_can_be_had_back(settings: Settings, fill: Fill, database_url: str) -> None:
    for _ in range(3):
        await fill()
    await do_drop(settings, selection=Selection(everything=True, limit=2))
    assert states(database_url) == {1: "dropped", 2: "dropped", 3: "open"}
    assert [row["how_many"] for row in rows(database_url, "SELECT how_many FROM parked_act")] == [2, 2]
    await do_replay(settings, selection=Selection(ids=[2], status=Status.DROPPED))
    assert states(database_url) == {1: "dropped", 2: "replayed", 3: "open"}


@pytest.mark.parametrize(
    ("selection", "code", "said"),
    [
        (Selection(), 2, "which messages?"),
        (Selection(ids=[1], everything=True), 2, "--all means all"),
        (Selection(older="soon"), 2, "--older: 'soon' is not a duration"),
        (Selection(ids=[1, 2, 99]), 1, "message 2 is dropped by me@here (if you mean it: --status dropped); "),
        (Selection(ids=[99]), 1, "there is no message 99"),
        (Selection(ids=[1], queue="other"), 1, "message 1 is not what the filters say"),
    ],
)
async def test_what_is_not_meant_clearly_is_not_done(
    settings: Settings,
    fill: Fill,
    database_url: str,
    capsys: pytest.CaptureFixture[str],
    selection: Selection,
    code: int,
    said: str,
) -> None:
    for _ in range(2):
        await fill()
    await do_drop(settings, selection=Selection(ids=[2]))
    with pytest.raises(typer.Exit) as ended:
        await do_replay(settings, selection=selection)
    assert ended.value.exit_code == code
    assert said in capsys.readouterr().err
    assert states(database_url) == {1: "open", 2: "dropped"}


async def test_a_message_that_took_effect_all_the_same_says_so(settings: Settings, fill: Fill, out: Out) -> None:
    await fill(properties=Properties({"message_id": b"m\\\xff\x00"}), message_id=inbox.storable(b"m\\\xff\x00"))
    await show_message(settings, parked_id=1, as_json=False, raw=False)
    assert "it has not taken effect" in out()
    async with create_pool(settings.database.url.get_secret_value(), settings.database) as pool:
        token = current_pool.set(pool)
        async with unit_of_work() as work:
            assert await inbox.claim_all(work.connection, QUEUE, [b"m\\\xff\x00"])
        current_pool.reset(token)
    await show_message(settings, parked_id=1, as_json=False, raw=False)
    assert "a replay would be dropped as a duplicate" in out()
    await show_message(settings, parked_id=1, as_json=True, raw=False)
    assert json.loads(out())["applied_at"] is not None


async def test_show_tells_all_that_is_known(settings: Settings, fill: Fill, out: Out) -> None:
    properties = Properties({"message_id": b"m", "correlation_id": b"c\x1b"}).with_headers(
        {"tenant": 7, "e": "\x1b[2J"}
    )
    await fill(b'{"name":"Ada","tags":["\x1b[2J"]}', properties=properties, message_id="m")
    await do_drop(settings, selection=Selection(ids=[1]), note="a test\x07")
    await fill(message_id="m")
    assert await show_message(settings, parked_id=1, as_json=False, raw=False) == 0
    shown = out()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    for part in ("correlation_id", "tenant", "ValueError: no", "by me@here: a test", "2 (open)", "30 bytes"):
        assert part in shown
    document = await shown_as_json(settings, out, 1)
    assert document["headers"]["tenant"] == 7
    assert document["acts"][0]["who"] == "me@here"
    assert document["others"][0]["id"] == 2
    assert document["body"] == '{"name":"Ada","tags":["\x1b[2J"]}'


async def shown_as_json(settings: Settings, out: Out, parked_id: int) -> dict[str, Any]:
    await show_message(settings, parked_id=parked_id, as_json=True, raw=False)
    text = out()
    assert text.replace("\n", "").isprintable()
    found: dict[str, Any] = json.loads(text)
    return found


async def test_show_of_what_is_not_there(settings: Settings) -> None:
    with pytest.raises(typer.Exit) as ended:
        await show_message(settings, parked_id=7, as_json=False, raw=False)
    assert ended.value.exit_code == 1


async def test_rehearsing_tells_what_would_happen_and_leaves_nothing(
    settings: Settings, fill: Fill, out: Out, database_url: str
) -> None:
    await fill()
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=True) == 0
    told = json.loads(out())
    assert told["result"] == "handled"
    assert told["rows"] == {"student": "1 inserted"}
    assert told["published"] == [{"topic": "student.created", "message": {"id": 1}, "delay": "5s"}]
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=False) == 0
    assert 'student.created {"id": 2} delay 5s' in out()
    assert rows(database_url, "SELECT id FROM student") == []
    assert rows(database_url, "SELECT id FROM outbox") == []
    assert rows(database_url, "SELECT queue FROM inbox") == []
    assert states(database_url) == {1: "open"}


async def test_a_message_of_a_batch_is_rehearsed_alone(
    settings: Settings, fill: Fill, out: Out, database_url: str
) -> None:
    await fill(queue="many")
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=True) == 0
    assert json.loads(out())["rows"] == {"student": "1 inserted"}
    assert rows(database_url, "SELECT id FROM student") == []


@pytest.mark.parametrize(
    ("body", "error", "has_trace"),
    [
        (b'{"name": "bad"}', "ValueError: no such student", True),
        (b'{"name": "worse"}', "DivisionByZero: division by zero", True),
        (b'{"nam": "Ada"}', "name: Field required", False),
    ],
)
async def test_a_rehearsal_that_fails_says_how(
    settings: Settings, fill: Fill, out: Out, database_url: str, body: bytes, error: str, *, has_trace: bool
) -> None:
    await fill(body)
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=True) == 1
    told = json.loads(out())
    assert error in told["error"]
    assert ("enrol" in (told["traceback"] or "")) is has_trace
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=False) == 1
    assert error in out()
    assert rows(database_url, "SELECT id FROM student") == []


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cancelled", "StrayCancellation: the handler ended as if it had been cancelled, but nobody had"),
        ("exited", "Exited: sys.exit(3) was called"),
        ("timed out", "HandlerTimeout: the handler had not ended after 1s"),
        ("in a long statement", "HandlerTimeout: the handler had not ended after 1s"),
        ("terminated", "AdminShutdown: terminating connection due to administrator command"),
        ("terminated, and caught", "the connection is closed"),
    ],
)
async def test_a_rehearsal_of_a_handler_that_ends_in_an_odd_way_says_how(
    settings: Settings, fill: Fill, out: Out, database_url: str, name: str, error: str
) -> None:
    settings = settings.model_copy(
        update={"consume": settings.consume.model_copy(update={"handler_timeout": timedelta(seconds=1)})}
    )
    await fill(json.dumps({"name": name}).encode(), queue="odd")
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=True) == 1
    told = json.loads(out())
    assert told["result"] == "failed"
    assert error in told["error"]
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=False) == 1
    assert error in out()
    assert rows(database_url, "SELECT id FROM student") == []


async def test_a_rehearsal_tells_that_the_key_fails(settings: Settings, fill: Fill, out: Out) -> None:
    await fill(queue="unkeyed")
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=True) == 1
    assert json.loads(out())["error"] == "TypeError: unhashable type: 'list'"


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("as_json", [False, True])
async def test_a_handler_that_ends_the_transaction_of_its_rehearsal_is_found_out(
    settings: Settings, fill: Fill, capsys: pytest.CaptureFixture[str], name: str, *, as_json: bool
) -> None:
    await fill(json.dumps({"name": name}).encode(), queue="odd")
    with pytest.raises(typer.Exit) as ended:
        await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=as_json)
    assert ended.value.exit_code == 1
    printed = capsys.readouterr()
    assert "error: the handler has ended the transaction by itself: what it did may be there to stay" in printed.err
    assert ("division by zero" in printed.err) is (name == "failed then")
    assert printed.out == ""


async def test_whatever_a_handler_prints_or_publishes_standard_output_is_json(
    settings: Settings, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    await fill(queue="chatty")
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=True) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out, parse_constant=refuse)
    assert told["published"] == [{"topic": "grades", "message": {"average": None}}], "as it would be sent"
    assert "hello Ada" in printed.err
    assert await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=False) == 0
    printed = capsys.readouterr()
    assert "hello Ada" not in printed.out
    assert 'grades {"average": null}' in printed.out
    assert "hello Ada" in printed.err


@pytest.mark.parametrize(
    ("queue", "said"), [("outside", "transaction=False"), ("nobody", "no consumer of this program has the queue")]
)
async def test_what_cannot_be_rehearsed(
    settings: Settings, fill: Fill, capsys: pytest.CaptureFixture[str], queue: str, said: str
) -> None:
    await fill(queue=queue)
    with pytest.raises(typer.Exit) as ended:
        await rehearse(settings, parked_id=1, consumers=CONSUMERS, as_json=False)
    assert ended.value.exit_code == 1
    assert said in capsys.readouterr().err


@pytest.fixture
def edit(settings: Settings) -> Callable[..., Any]:
    return partial(edit_message, settings, parked_id=1, note=None, by="me@here", yes=True, consumers=CONSUMERS)


async def test_an_edit_is_checked_shown_and_recorded(
    edit: Callable[..., Any], fill: Fill, out: Out, tmp_path: Path, database_url: str
) -> None:
    await fill(b'{"nam": "Ada"}')
    mended = tmp_path / "mended.json"
    mended.write_bytes(b'{"name": "Ada"}')
    assert await edit(source=str(mended)) == 0
    shown = out()
    assert '-  "nam": "Ada"' in shown
    assert '+  "name": "Ada"' in shown
    assert rows(database_url, "SELECT body, status FROM parked_message") == [
        {"body": b'{"name": "Ada"}', "status": "open"}
    ]
    (act,) = rows(database_url, "SELECT * FROM parked_act")
    assert (act["act"], act["body_before"]) == ("edit", b'{"nam": "Ada"}')
    assert await edit(source=str(mended)) == 0
    assert "nothing was done" in out()


async def test_an_edit_that_the_model_refuses_is_not_stored(
    edit: Callable[..., Any], fill: Fill, tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill()
    (tmp_path / "worse").write_bytes(b'{"nam": 1}')
    with pytest.raises(typer.Exit):
        await edit(source=str(tmp_path / "worse"))
    assert "would not take this body: name: Field required" in capsys.readouterr().err
    assert rows(database_url, "SELECT id FROM parked_act") == []


async def test_an_edit_does_not_overwrite_that_of_somebody_else(
    edit: Callable[..., Any],
    fill: Fill,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await fill()

    def meanwhile(*_: object, yes: bool) -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute('UPDATE parked_message SET body = \'{"name": "Eve"}\'')

    monkeypatch.setattr("commands.parked.editing.confirm", meanwhile)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"name": "Bob"}')))
    with pytest.raises(typer.Exit):
        await edit(source="-")
    assert "changed by somebody else" in capsys.readouterr().err
    assert rows(database_url, "SELECT body FROM parked_message") == [{"body": b'{"name": "Eve"}'}]


async def test_without_a_terminal_there_is_no_editor(
    edit: Callable[..., Any], fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill()
    with pytest.raises(typer.Exit) as ended:
        await edit(source=None)
    assert ended.value.exit_code == 2
    assert "--body" in capsys.readouterr().err


def environment(settings: Settings, **variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("ROLES", "DEBUG", "VISUAL")}
    url = settings.database.url.get_secret_value()
    return {**clean, "PYTHONPATH": str(ROOT), "APP_DATABASE__URL": url, "TERM": "xterm", **variables}


async def test_the_command_line(settings: Settings, fill: Fill, here: Path, database_url: str) -> None:
    for _ in range(2):
        await fill()
    run = partial(subprocess.run, cwd=here, env=environment(settings), capture_output=True, text=True, check=False)
    refused = await anyio.to_thread.run_sync(
        partial(run, [sys.executable, str(APP), "parked", "replay", "--queue", QUEUE], stdin=subprocess.DEVNULL)
    )
    assert refused.returncode == 2
    assert f"Replay 2 messages ({QUEUE}: 2)? There is no terminal to ask on: add --yes." in refused.stderr
    assert states(database_url) == {1: "open", 2: "open"}
    done = await anyio.to_thread.run_sync(
        partial(run, [sys.executable, str(APP), "parked", "drop", "2", "--note", "a test", "--yes"])
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "dropped 1\n", "")
    (act,) = rows(database_url, "SELECT who, note FROM parked_act")
    assert act == {"who": who(), "note": "a test"}


async def test_an_editor_on_a_terminal(settings: Settings, fill: Fill, here: Path, database_url: str) -> None:
    await fill(b'{"name":"Ada"}')
    editor = here / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/Ada/Grace/" "$1"\n')
    editor.chmod(0o700)
    environ = environment(settings, EDITOR=str(editor))
    answered = await anyio.to_thread.run_sync(
        partial(on_a_terminal, [sys.executable, str(APP), "parked", "edit", "1"], here, environ, b"y\n")
    )
    assert '+  "name": "Grace"' in answered
    (row,) = rows(database_url, "SELECT body FROM parked_message")
    assert json.loads(row["body"]) == {"name": "Grace"}


async def test_ctrl_c_in_an_editor_is_the_editors(
    settings: Settings, fill: Fill, here: Path, database_url: str
) -> None:
    await fill(b'{"name":"Ada"}')
    editor = here / "editor"
    editor.write_text('#!/bin/sh\nkill -INT $PPID\nsed -i "s/Ada/Grace/" "$1"\n')
    editor.chmod(0o700)
    environ = environment(settings, EDITOR=str(editor))
    await anyio.to_thread.run_sync(
        partial(on_a_terminal, [sys.executable, str(APP), "parked", "edit", "1"], here, environ, b"y\n")
    )
    (row,) = rows(database_url, "SELECT body FROM parked_message")
    assert json.loads(row["body"]) == {"name": "Grace"}


@pytest.mark.parametrize(
    ("editor", "said", "code"),
    [("vi '", "cannot be run", 2), ("false", "ended with 1", 1), ("rm", "cannot be read", 1)],
)
async def test_an_editor_that_fails_changes_nothing(
    settings: Settings, fill: Fill, here: Path, database_url: str, editor: str, said: str, code: int
) -> None:
    await fill()
    environ = environment(settings, EDITOR=editor)
    command = [sys.executable, str(APP), "parked", "edit", "1"]
    told = await anyio.to_thread.run_sync(partial(on_a_terminal, command, here, environ, b"y\n", code=code))
    assert said in told
    assert "Traceback" not in told
    assert rows(database_url, "SELECT body FROM parked_message") == [{"body": b'{"name": "Ada"}'}]


async def test_ctrl_c_is_an_answer_to_the_question(
    settings: Settings, fill: Fill, here: Path, database_url: str
) -> None:
    await fill()
    said = await anyio.to_thread.run_sync(
        partial(
            on_a_terminal,
            [sys.executable, str(APP), "parked", "drop", "--all"],
            here,
            environment(settings),
            signal.SIGINT,
            code=1,
        )
    )
    assert "Aborted" in said
    assert states(database_url) == {1: "open"}


def on_a_terminal(
    command: list[str], directory: Path, environ: dict[str, str], answer: bytes | signal.Signals, *, code: int = 0
) -> str:
    """What a command says on a terminal of its own, on which a question is answered, with a text or with a signal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=directory, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        end = threading.Timer(60, process.kill)
        end.start()
        said = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            said += data
            if data.rstrip().endswith(b"[y/N]:"):
                if isinstance(answer, bytes):
                    os.write(ours, answer)
                else:
                    wait_until_at_rest(process.pid)
                    process.send_signal(answer)
        assert process.wait(timeout=60) == code, said.decode()
        end.cancel()
    os.close(ours)
    return said.decode()


def wait_until_at_rest(pid: int) -> None:
    """Returns when a process waits for us: a signal that comes just as Python begins to read is seen afterwards."""

    def switches() -> list[str]:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return [line for line in status if line.startswith("State:") or "ctxt_switches" in line]

    before: list[str] = []
    while before != (now := switches()) or "sleeping" not in now[0]:
        before = now
        time.sleep(0.05)  # noqa: TID251 - what is waited for is another process


@hypothesis.settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode) | json_bodies)
def test_any_body_can_be_read_and_json_stays_what_it_says(body: bytes) -> None:
    assert readable(body)
    text = as_text(body)
    if text is None:
        with pytest.raises(UnicodeDecodeError):
            body.decode()
    elif text.encode() != body:
        assert json.loads(text) == json.loads(body)
    assert difference(body, body + b" ")


@pytest.mark.parametrize("body", [b'{"a": 1.10}', b'{"a":1,"a":2}', b"[1e400]", b'{"a":1 }', b"[" * 100_000])
def test_json_that_would_not_say_the_same_is_shown_as_it_is(body: bytes) -> None:
    assert as_text(body) == body.decode()


@pytest.mark.timeout(60)
def test_large_bodies_are_compared_in_a_time_that_a_person_waits() -> None:
    old: list[dict[str, Any]] = [{"name": "Ada", "number": number, "mark": number} for number in range(20_000)]
    new = [{**row, "mark": 0} if row["number"] % 2 else row for row in old]
    lines = difference(json.dumps(old).encode(), json.dumps(new).encode()).splitlines()
    assert lines[2] == "@@ -7,99996 +7,99996 @@"
    assert '-    "mark": 1' in lines
    assert '+    "mark": 0' in lines


@pytest.mark.parametrize(
    ("change", "hunk"),
    [
        (
            lambda row: [*row[:9000], -1, *row[9001:]],
            "@@ -8999,7 +8999,7 @@| 8997| 8998| 8999|-9000|+-1| 9001| 9002| 9003",
        ),
        (lambda row: row[1:], "@@ -1,5 +1,4 @@| [|-0| 1| 2| 3"),
        (lambda row: [*row[:9998], 5], "@@ -9997,6 +9997,5 @@| 9995| 9996| 9997|-9998|-9999|+5| ]"),
    ],
)
def test_one_change_in_a_large_body_is_shown_where_it_is(change: Callable[[list[int]], list[int]], hunk: str) -> None:
    old = list(range(10_000))
    lines = difference(json.dumps(old).encode(), json.dumps(change(old)).encode()).splitlines()
    assert [line.replace("  ", "").rstrip(",") for line in lines[2:]] == hunk.split("|")
