"""The AsyncAPI 3 document of this service: its consumers and its topics, from the models that they are declared with.

See https://www.asyncapi.com/docs/reference/specification/v3.0.0 and, for what `bindings` say,
https://github.com/asyncapi/bindings/tree/master/amqp.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from roles.amqp import virtual_host
from roles.consume.declarations import Consumer
from schema.settings import EMBEDDED, Settings
from schema.status import VERSION
from schema.topic import Topic

ASYNCAPI = "3.0.0"
_SCHEMAS = "#/components/schemas/"
_BINDING = {"bindingVersion": "0.3.0"}
_DESCRIPTION = (
    "Messages are JSON, persistent and mandatory. Give each a `message_id` of its own: a second message with the "
    "same id is dropped. docs/messages.md says what becomes of a message whose handler fails."
)

Document = dict[str, Any]


def document(consumers: Sequence[Consumer[Any]], topics: Sequence[Topic[Any]], settings: Settings) -> Document:
    """What this service receives and sends. It names no user and no password."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((each.model(), "validation") for each in consumers),
        *((each.model, "serialization") for each in topics),
    ]
    references, schemas = models_json_schema(list(dict.fromkeys(models)), ref_template=_SCHEMAS + "{model}")
    channels: Document = {}
    operations: Document = {}
    for consumer in consumers:
        name = f"receive.{consumer.queue}"
        channels[name] = _channel_of_consumer(consumer, settings, references[consumer.model(), "validation"])
        operations[name] = {
            "action": "receive",
            "channel": _reference("channels", name),
            "summary": _summary(consumer.handler),
            "messages": [_reference("channels", name, "messages", "message")],
            "bindings": {"amqp": {"ack": True, **_BINDING}},
        }
    for topic in topics:
        name = f"send.{topic.name}"
        channels[name] = _channel_of_topic(topic, settings, references[topic.model, "serialization"])
        operations[name] = {
            "action": "send",
            "channel": _reference("channels", name),
            "summary": _summary(topic.model),
            "messages": [_reference("channels", name, "messages", "message")],
            "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, **_BINDING}},
        }
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": "Rolecall", "version": VERSION, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {name: _server(each.url.get_secret_value()) for name, each in settings.amqp.items()},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas.get("$defs", {})},
    }


def _server(url: str) -> Document:
    if url == EMBEDDED:
        return {"host": "localhost", "protocol": "amqp", "description": "Embedded: the application prints its port."}
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return {"host": host, "protocol": parts.scheme, "pathname": parts.path or "/"}


def _channel_of_consumer(consumer: Consumer[Any], settings: Settings, schema: Mapping[str, Any]) -> Document:
    vhost = _vhost(settings, consumer.broker)
    if consumer.exchange is None:
        queue = {"name": consumer.queue, "durable": True, "exclusive": False, "autoDelete": False, "vhost": vhost}
        binding: Document = {"is": "queue", "queue": queue}
    else:
        binding = {"is": "routingKey", "exchange": _exchange(consumer.exchange, consumer.exchange_type, vhost)}
    return {
        "address": consumer.binding_key,
        "title": f"Queue {consumer.queue}",
        "servers": [_reference("servers", consumer.broker)],
        "messages": {"message": _message(consumer.model(), schema)},
        "bindings": {"amqp": {**binding, **_BINDING}},
        "x-queue": consumer.queue,
    }


def _channel_of_topic(topic: Topic[Any], settings: Settings, schema: Mapping[str, Any]) -> Document:
    vhost = _vhost(settings, topic.broker)
    binding = {"is": "routingKey", "exchange": _exchange(topic.exchange, topic.exchange_type, vhost)}
    message = {**_message(topic.model, schema), "bindings": {"amqp": {"messageType": topic.name, **_BINDING}}}
    return {
        "address": topic.routing_key,
        "title": f"Topic {topic.name}",
        "servers": [_reference("servers", topic.broker)],
        "messages": {"message": message},
        "bindings": {"amqp": {**binding, **_BINDING}},
    }


def _exchange(name: str, kind: str, vhost: str) -> Document:
    return {"name": name, "type": kind if name else "default", "durable": True, "autoDelete": False, "vhost": vhost}


def _message(model: type[BaseModel], schema: Mapping[str, Any]) -> Document:
    return {
        "name": model.__name__,
        "summary": _summary(model),
        "contentType": "application/json",
        "payload": dict(schema),
    }


def _summary(of: object) -> str:
    return (inspect.getdoc(of) or "").partition("\n")[0]


def _vhost(settings: Settings, broker: str) -> str:
    url = settings.amqp[broker].url.get_secret_value()
    return "/" if url == EMBEDDED else virtual_host(url)


def _reference(*path: str) -> Document:
    """A JSON pointer into this document (RFC 6901), as a URI fragment."""
    steps = (each.replace("~", "~0").replace("/", "~1").replace("%", "%25") for each in path)
    return {"$ref": "#/" + "/".join(steps)}
