"""`app.py asyncapi`: what it prints is valid by the official schema, and says what is declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from app import cli
from commands.asyncapi import document
from db.pool import Work
from roles.consume import consumer
from roles.consume.handlers import CONSUMERS
from schema.settings import Settings
from schema.topic import Topic
from schema.topics import TOPICS

SCHEMA = json.loads((Path(__file__).parent / "asyncapi" / "schema-3.0.0.json").read_text())


class Part(BaseModel):
    amount: int


class Order(BaseModel):
    """What is ordered.

    And more about it.
    """

    parts: list[Part]
    note: str = Field("", description="For people.")


@consumer("odd/queue ~ 100%", broker="other")
async def odd(message: Order, work: Work) -> None:
    """Takes orders."""


@consumer("bound", exchange="orders", exchange_type="headers", routing_key="")
async def bound(message: Order, work: Work) -> None: ...


ORDERED = Topic("ordered", Order, exchange="orders", routing_key="order.made", broker="other")
DIRECT = Topic("direct", Part, exchange="", routing_key="their.queue")
OTHER = Settings.model_validate(
    {"amqp": {"other": {"url": "amqps://me:secret@rabbit.example:5671/v%2F1"}, "example": {}}}
)


def resolve(of: dict[str, Any], reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        of = of[unquote(step).replace("~1", "/").replace("~0", "~")]
    return of


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return found + [each for inner in value.values() for each in references(inner)]
    return [each for inner in value for each in references(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("consumers", "topics", "settings"),
    [(CONSUMERS, TOPICS, Settings()), ((odd, bound), (ORDERED, DIRECT), OTHER), ((), (), Settings())],
    ids=["what ships", "odd names", "nothing"],
)
def test_the_document_is_valid_by_the_official_schema(consumers: Any, topics: Any, settings: Settings) -> None:
    made = document(consumers, topics, settings)
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(made)] == []
    for reference in references(made):
        assert resolve(made, reference) is not None
    assert json.loads(json.dumps(made)) == made


def test_the_official_schema_refuses_what_it_should() -> None:
    made = document((bound,), (), Settings())
    made["channels"]["receive.bound"]["bindings"]["amqp"]["is"] = "nonsense"
    assert not Draft7Validator(SCHEMA).is_valid(made)


def test_it_says_where_to_publish_what_and_what_comes() -> None:
    made = document((odd, bound), (ORDERED,), OTHER)

    assert "secret" not in json.dumps(made)
    assert made["servers"]["other"] == {"host": "rabbit.example:5671", "protocol": "amqps", "pathname": "/v%2F1"}
    channel = resolve(made, made["operations"]["receive.odd/queue ~ 100%"]["channel"]["$ref"])
    assert channel["address"] == "odd/queue ~ 100%"
    assert channel["bindings"]["amqp"]["queue"]["vhost"] == "v/1"
    payload = resolve(made, channel["messages"]["message"]["payload"]["$ref"])
    assert payload["properties"]["note"]["description"] == "For people."
    assert payload["required"] == ["parts"]
    assert made["operations"]["receive.odd/queue ~ 100%"]["summary"] == "Takes orders."

    exchange = made["channels"]["receive.bound"]["bindings"]["amqp"]["exchange"]
    assert (exchange["name"], exchange["type"]) == ("orders", "headers")
    assert made["channels"]["receive.bound"]["x-queue"] == "bound"

    sent = made["channels"]["send.ordered"]
    assert sent["address"] == "order.made"
    assert sent["messages"]["message"]["bindings"]["amqp"]["messageType"] == "ordered"
    assert sent["messages"]["message"]["summary"] == "What is ordered."


def test_the_command_prints_it(here: Path) -> None:
    result = CliRunner().invoke(cli, ["asyncapi"])
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert made["asyncapi"] == "3.0.0"
    assert {f"receive.{each.queue}" for each in CONSUMERS} | {f"send.{each.name}" for each in TOPICS} == set(
        made["operations"]
    )
