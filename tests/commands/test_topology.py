"""`app.py topology`, on a real broker."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiormq
import anyio
import pytest
import structlog
from typer.testing import CliRunner, Result

from app import cli
from commands.topology import acts
from roles.consume import Ladder, consumer
from roles.consume.handlers import CONSUMERS
from roles.consume.topology import queues
from tests.e2e.support import APP, ROOT
from tests.services import RabbitServer

Run = Callable[..., Result]
MAIN = "example.main"
ALL = {
    f"{each.queue}{suffix}"
    for each in CONSUMERS
    for suffix in ("", ".parked", ".retry.5s", ".retry.30s", ".retry.5m")
}


@pytest.fixture
def run(here: Path, amqp_url: str, management_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the verb on an empty virtual host; `blind=True` without the management API."""
    monkeypatch.setattr(acts, "configure", lambda *_, **__: None)  # it would outlive the test
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

    def run(*arguments: str, blind: bool = False, **environ: str) -> Result:
        settings = {"APP_AMQP__EXAMPLE__URL": amqp_url, **environ}
        if not blind:
            settings["APP_AMQP__EXAMPLE__MANAGEMENT_URL"] = management_url
        return CliRunner().invoke(cli, ["topology", *arguments], env=settings)

    yield run
    structlog.reset_defaults()


@pytest.fixture
def broker(amqp_url: str) -> Callable[..., Any]:
    """Calls a method of another client's channel."""

    async def call(method: str, *arguments: Any, **options: Any) -> Any:
        connection = await aiormq.connect(amqp_url)
        try:
            return await getattr(await connection.channel(), method)(*arguments, **options)
        finally:
            await connection.close()

    return lambda *arguments, **options: anyio.run(partial(call, *arguments, **options))


def rows(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_what_is_missing_is_said_and_declared(run: Run) -> None:
    before = run("diff", "--json")
    assert before.exit_code == 2
    assert {(each["subject"], each["kind"]) for each in rows(before)} == {
        *((f"queue {name}", "missing") for name in ALL),
        ("exchange example.exchange", "missing"),
        *((f"binding example.exchange ─{each.binding_key}→ {each.queue}", "missing") for each in CONSUMERS),
    }

    applied = run("apply", "--yes", "--json")
    assert applied.exit_code == 0, applied.output
    assert {each["subject"] for each in rows(applied)} == {each["subject"] for each in rows(before)}
    assert run("diff").stdout == "nothing differs\n"
    assert run("apply").stdout == "nothing to do: all that is declared is there\n"
    shown = rows(run("show", "--json"))
    assert {each["state"] for each in shown} == {"there"}
    (main,) = (each for each in shown if each["name"] == MAIN)
    assert (main["messages"], main["consumers"], main["arguments"]["x-delivery-limit"]) == (0, 0, 100)
    assert "example.main.retry.5s" in run("show").stdout


def test_nothing_is_done_without_a_yes(run: Run) -> None:
    refused = run("apply")
    assert refused.exit_code == 2
    assert "declare queue example.main" in refused.output
    assert "--yes" in refused.output
    assert {each["state"] for each in rows(run("show", "--json"))} == {"missing"}


@pytest.mark.parametrize("blind", [False, True], ids=["with the management API", "without"])
def test_a_queue_with_other_arguments_is_made_anew_and_keeps_its_messages(
    run: Run, broker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, blind: bool
) -> None:
    monkeypatch.setattr(acts, "CONSUMERS", [each for each in CONSUMERS if each.queue == MAIN])
    assert run("apply", "--yes", APP_CONSUME__DELIVERY_LIMIT="3").exit_code == 0
    broker("queue_bind", MAIN, "example.exchange", "of.others")
    for number in range(5):
        broker("basic_publish", b"%d" % number, routing_key=MAIN)

    differing = run("diff", blind=blind)
    assert differing.exit_code == 2
    assert "queue example.main: x-delivery-limit is 3, and 100 is declared" in differing.stdout
    assert "`python app.py topology apply --recreate example.main`" in differing.stdout
    refused = run("apply", "--yes", blind=blind)
    assert refused.exit_code == 2
    assert "--recreate example.main" in refused.output

    applied = run("apply", "--recreate", MAIN, "--yes", blind=blind)
    assert applied.exit_code == 0, applied.output
    assert "5 messages are back in example.main" in applied.stdout
    left = rows(run("diff", "--json"))
    if blind:
        assert left == [], "bindings of others are lost, as was said"
        assert "are lost" in applied.stdout
    else:
        assert [each["subject"] for each in left] == ["binding example.exchange ─of.others→ example.main"]
    (main,) = (each for each in rows(run("show", "--json")) if each["name"] == MAIN)
    assert (main["messages"], main["arguments"]["x-delivery-limit"]) == (5, 100)
    assert "nothing to do" in run("apply", "--recreate", MAIN, blind=True).stdout


def test_a_recreation_that_was_cut_off_is_said_and_gone_on_with(run: Run, broker: Callable[..., Any]) -> None:
    assert run("apply", "--yes").exit_code == 0
    broker("queue_declare", "example.main.moving", durable=True, arguments={"x-queue-type": "quorum"})
    broker("basic_publish", b"x", routing_key="example.main.moving")

    (unfinished,) = rows(run("diff", "--json"))
    assert (unfinished["subject"], unfinished["kind"]) == ("queue example.main", "unfinished")
    assert "1 of its messages are in example.main.moving" in unfinished["text"]
    assert run("apply", "--recreate", MAIN, "--yes").exit_code == 0
    assert rows(run("diff", "--json")) == []
    assert next(each for each in rows(run("show", "--json")) if each["name"] == MAIN)["messages"] == 1


def test_strays_are_seen_with_the_management_api(
    run: Run, broker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = (each for each in CONSUMERS if each.queue == MAIN)
    former = consumer("gone", retry=Ladder())(example.handler)
    delay = consumer(MAIN, retry=Ladder("7s"))(example.handler)
    assert run("apply", "--yes").exit_code == 0
    for each in (former, delay):
        for queue in queues(each, delivery_limit=100):
            broker("queue_declare", queue.name, durable=True, arguments=queue.arguments)
    broker("queue_declare", "of.somebody.else", durable=True)

    found = rows(run("diff", "--json"))
    assert {each["subject"] for each in found} == {
        "queue gone",
        "queue gone.parked",
        "queue example.main.retry.7s",
    }
    assert {each["kind"] for each in found} == {"stray"}
    assert "within 7 s" in next(each["remedy"] for each in found if each["subject"].endswith("7s"))
    blind = run("diff", blind=True)
    assert blind.exit_code == 0
    assert "cannot be seen without amqp.example.management_url" in blind.stdout


def test_an_exchange_of_another_type_is_said_with_what_is_bound_to_it(run: Run, broker: Callable[..., Any]) -> None:
    broker("exchange_declare", "example.exchange", exchange_type="fanout", durable=True)

    found = {each["subject"]: each for each in rows(run("diff", "--json"))}
    exchange = found["exchange example.exchange"]
    assert exchange["text"] == "type is fanout, and topic is declared"
    refused = run("apply", "--yes")
    assert refused.exit_code == 2
    assert "exchange example.exchange: type is fanout" in refused.output


def test_what_is_refused_is_said_in_one_line_on_standard_error(
    here: Path, amqp_url: str, broker: Callable[..., Any]
) -> None:
    broker("exchange_declare", "example.exchange", exchange_type="fanout", durable=True)

    environ = {name: value for name, value in os.environ.items() if name not in ("ROLES", "DEBUG")}
    refused = subprocess.run(
        [sys.executable, str(APP), "topology", "apply", "--json", "--yes"],
        cwd=here,
        env={**environ, "PYTHONPATH": str(ROOT), "APP_AMQP__EXAMPLE__URL": amqp_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: exchange example.exchange: type is fanout")
    assert refused.stderr.count("\n") == 1


def test_an_unknown_queue_is_refused_with_those_that_there_are(run: Run) -> None:
    refused = run("apply", "--recreate", "exampel.main", "--yes")
    assert refused.exit_code == 2
    assert "exampel.main: no consumer declares this queue" in refused.output


def test_a_management_api_that_does_not_let_us_in_is_said(run: Run, rabbitmq: RabbitServer) -> None:
    url = rabbitmq.node.management_url.replace("http://", "http://nobody:wrong@")
    refused = run("show", blind=True, APP_AMQP__EXAMPLE__MANAGEMENT_URL=url)
    assert refused.exit_code == 1
    assert "answered 401" in refused.output
    assert "wrong" not in refused.output
