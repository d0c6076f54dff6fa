"""The public keys of an issuer of tokens, as it publishes them (RFC 7517)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class KeySet(BaseModel):
    """A set of keys. Members of kinds that nobody here knows are left to whoever reads them."""

    keys: list[dict[str, Any]] = Field(
        examples=[[{"kty": "EC", "kid": "2026-11", "crv": "P-256", "x": "…", "y": "…"}]]
    )
