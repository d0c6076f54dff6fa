"""`docs/messages.md` is held to the code that it tells of."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from pathlib import Path

from roles.amqp import Properties
from roles.consume import consumer
from roles.consume.handlers.students import create_student
from roles.consume.names import moving_queue, parked_queue, wait_queue
from roles.consume.retry import BROKERS_OWN, MAX_ERROR_LENGTH, OURS, without_effects
from schema.settings import Settings
from schema.students import NewStudent

PAGE = (Path(__file__).parent.parent.parent / "docs" / "messages.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def first_column(text: str) -> set[str]:
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}


def test_every_header_of_ours_is_in_the_table_and_no_other() -> None:
    by_properties = without_effects(
        Properties({"expiration": b"1", "user_id": b"somebody"}), user="else"
    ).headers.keys()
    assert first_column(section("Headers")) == {*OURS, *(name.decode() for name in by_properties)}


def test_every_header_that_does_not_go_on_is_named() -> None:
    paragraph = section("Headers").partition("These do not go on")[2]
    assert set(re.findall(r"`([\w-]+)`", paragraph.partition("A producer sets none")[0])) == set(BROKERS_OWN)


def test_the_length_of_an_error_is_what_it_says() -> None:
    assert f"at most {MAX_ERROR_LENGTH:,} characters" in PAGE


def test_every_queue_of_the_picture_is_one() -> None:
    ladder = inspect.signature(consumer).parameters["retry"].default
    named = set(re.findall(r"\bq\.[\w.]+\b", section("The queues")))
    assert named == {
        parked_queue("q"),
        moving_queue("q"),
        *(wait_queue("q", delay) for delay in ladder.steps()),
    }
    assert f"`{ladder!r}` is four attempts".replace("'", '"') in PAGE


def test_every_number_of_a_setting_is_its_default() -> None:
    settings = Settings()
    assert f"`consume.delivery_limit` ({settings.consume.delivery_limit})" in PAGE
    minutes = settings.consume.give_back_after // timedelta(minutes=1)
    assert f"`consume.give_back_after` ({minutes} minutes)" in PAGE
    assert f"`consume.inbox_retention` says ({settings.consume.inbox_retention.days} days)" in PAGE


def test_every_option_of_a_consumer_that_is_named_is_one() -> None:
    options = inspect.signature(consumer).parameters.keys()
    assert set(re.findall(r"`(\w+)=[\w…]+`", PAGE)) <= options


def test_where_a_producer_is_told_to_publish_to_there_is_a_consumer() -> None:
    body = re.search(r"b'(\{.*?\})'", section("What a producer sets"))
    assert body is not None
    NewStudent.model_validate_json(body[1])
    assert f'exchange="{create_student.exchange}"' in PAGE
    assert f'routing_key="{create_student.binding_key}"' in PAGE
