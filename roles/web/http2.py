"""HTTP/2 as Hypercorn and h2 speak it, less what ends in an error of Hypercorn's own, and with it in our logs.

There are no tunnels and no websockets, so `CONNECT` is none of the methods; a path is ASCII (RFC 3986); and what is
still sent of a request that was answered before its end is taken, and let go.
"""

from __future__ import annotations

from collections.abc import Sequence

from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived
from hypercorn.protocol.h2 import H2Protocol


class Http2(H2Protocol):
    """The protocol of one connection."""

    async def _handle_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._is_ours(event):
                await super()._handle_events([event])
            else:
                await self._flush()

    def _is_ours(self, event: Event) -> bool:
        match event:
            case RequestReceived(stream_id=int(stream), headers=headers) if _is_none(dict(headers or ())):
                self.connection.reset_stream(stream, ErrorCodes.PROTOCOL_ERROR)
                return False
            case DataReceived(stream_id=int(stream), flow_controlled_length=int(length)) if (
                stream not in self.streams
            ):
                self.connection.acknowledge_received_data(length, stream)
                return False
        return True


def _is_none(headers: dict[bytes, bytes]) -> bool:
    return headers[b":method"] == b"CONNECT" or not headers[b":path"].isascii()
