"""What aiormq and the broker say, as errors that tell a caller what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiormq import exceptions

from schema.errors import ConfigurationError, DependencyUnavailable

_ABOUT_THE_DECLARATION = re.compile(r"(inequivalent|invalid|unknown) (arg|property)")
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>queue|exchange) '(?P<name>.*)' in vhost '.*': "
    r"received (?P<ours>.*) but current is (?P<theirs>.*)"
)
_ABOUT_THE_MESSAGE = (
    exceptions.ChannelPreconditionFailed,
    exceptions.ConnectionFrameError,
    exceptions.ConnectionSyntaxError,
    exceptions.ConnectionUnexpectedFrame,
)


class BrokerUnavailable(DependencyUnavailable):
    """The broker is away, does not answer, does not let us in, or has closed what we were using.

    A refused login, a missing virtual host and a missing permission are of this kind too: they are repaired at
    the broker, while we run (a password is rotated, a user is imported a moment later), and must not take the
    rest of the process down.
    """


class NotAccepted(BrokerUnavailable):
    """The broker answers, and has not taken this message: a queue that it belongs into is full, or fails."""


_AS_THEY_ARE = (BrokerUnavailable, TypeError, ValueError, LookupError)
"""The last three are what aiormq raises when it is called wrongly, and never because a connection broke."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first argument that differs; values as the broker writes them, `none` where there is none."""

    kind: str
    """`queue` or `exchange`."""
    name: str
    argument: str
    found: str
    declared: str


class TopologyMismatch(ConfigurationError):
    """A queue or an exchange exists with other arguments than ours. Nobody but a person can decide what to do."""

    def __init__(self, message: str, mismatch: Mismatch | None = None) -> None:
        super().__init__(message)
        self.mismatch = mismatch
        """None if the broker does not know an argument at all."""


class Unroutable(Exception):
    """No queue takes messages with this exchange and routing key, or there is no such exchange."""


class MessageRefused(Exception):
    """The broker closed the channel over this message: too large, an impossible property, a foreign user id."""


def unavailable(broker: str, error: Exception) -> Exception:
    """The error to raise for one that a call of aiormq's raised; the caller's own are returned as they are."""
    return error if isinstance(error, _AS_THEY_ARE) else BrokerUnavailable(f"broker {broker}: {said(error)}")


def refused_declaration(broker: str, error: Exception) -> Exception:
    """As `unavailable`, for a declaration."""
    text = said(error)
    if not isinstance(error, exceptions.ChannelPreconditionFailed) or not _ABOUT_THE_DECLARATION.search(text):
        return unavailable(broker, error)
    match = _INEQUIVALENT.search(text)
    if match is None:
        return TopologyMismatch(f"broker {broker}: {text}")
    found = Mismatch(match["kind"], match["name"], match["argument"], _value(match["theirs"]), _value(match["ours"]))
    return TopologyMismatch(
        f"broker {broker}: {found.kind} {found.name!r} has {found.argument} = {found.found} and is declared with "
        f"{found.declared}: {remedy(found)}",
        found,
    )


def remedy(mismatch: Mismatch) -> str:
    """What to do about it, for the end of a sentence."""
    if mismatch.kind == "queue":
        command = f"python app.py topology apply --recreate {mismatch.name}"
        return f"`{command}` makes it anew and keeps its messages; or declare what is there"
    return "`python app.py topology diff` says what is bound to it; delete it when its producers have stopped"


def refused_publication(broker: str, error: Exception, *, exchange: str, routing_key: str) -> Exception:
    """As `unavailable`, for a message that was published."""
    where = f"{exchange or '(default)'} with routing key {routing_key!r}"
    match error:
        case exceptions.PublishError() | exceptions.ChannelNotFoundEntity():
            return Unroutable(f"broker {broker}: exchange {where}: {said(error)}")
        case exceptions.DeliveryError():
            return NotAccepted(f"broker {broker}: exchange {where}: not accepted (a full or failing queue)")
        case _ if isinstance(error, _ABOUT_THE_MESSAGE):
            return MessageRefused(f"broker {broker}: exchange {where}: {said(error)}")
    return unavailable(broker, error)


def said(error: BaseException) -> str:
    """What the broker, or the socket, said."""
    words = " ".join(str(part) for part in error.args if part is not None)
    return words or type(error).__name__


def _value(text: str) -> str:
    plain = re.sub(r"^the value '(.*)' of type '.*'$", r"\1", text).removeprefix("'").removesuffix("'")
    return plain or "''"
