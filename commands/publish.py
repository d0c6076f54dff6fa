"""`python app.py publish TOPIC JSON`: a message from a person or a script, by the way that all messages take."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer
from pydantic import ValidationError

from commands.command import ConfigFile, database, exit_with, load
from db.pool import unit_of_work
from schema.errors import ConfigurationError
from schema.settings import Settings
from schema.topics import find

cli = typer.Typer()


@cli.command()
def publish(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(metavar="TOPIC", help="The name of a topic, as `schema/topics.py` lists it.")
    ],
    message: Annotated[str, typer.Argument(metavar="JSON", help="The message; - reads it from standard input.")],
    config_file: ConfigFile = None,
    *,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Hold it back, for 30s for example.")] = None,
) -> None:
    """Put a message into the outbox, from where a running application publishes it within a second."""
    body = sys.stdin.buffer.read() if message == "-" else message
    exit_with(partial(_publish, name=topic, body=body, delay=delay), load(context, config_file).settings)


async def _publish(settings: Settings, *, name: str, body: str | bytes, delay: str | None) -> int:
    topic = find(name)
    try:
        message = topic.model.model_validate_json(body)
    except ValidationError as error:
        raise ConfigurationError(f"this is no message of topic {name}: {_problems(error)}") from None
    async with database(settings):
        try:
            async with unit_of_work() as work:
                message_id = await work.publish(topic, message, delay=delay)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
    typer.echo(f"{message_id} is in the outbox of broker {topic.broker}")
    return 0


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'JSON'}: {each['msg']}" for each in found)
