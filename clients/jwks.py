"""The issuer of tokens that this API trusts, as far as its public keys go."""

from __future__ import annotations

from dataclasses import dataclass

from clients.service import Service
from schema.jwks import KeySet


@dataclass(frozen=True, slots=True)
class JwksClient:
    """Asks the issuer."""

    service: Service

    async def get(self) -> KeySet:
        """Its keys.

        Raises:
            UpstreamError: the issuer failed us; see `clients.errors`.
        """
        return self.service.decode(await self.service.call("GET", ""), KeySet)
