"""An issuer of tokens: its keys, and what it, or somebody who would like to be it, signs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.test", "rolecall"


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem() -> bytes:
    return rsa_key(0).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def rsa_jwk(kid: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(rsa_key(number).public_key(), as_dict=True), "kid": kid, **more}


def ec_jwk(kid: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(ec_key(number).public_key(), as_dict=True), "kid": kid, **more}


@dataclass
class Token:
    """A good token, unless something is said otherwise."""

    algorithm: str = "RS256"
    key: Any = None
    headers: dict[str, Any] = field(default_factory=lambda: {"kid": "1"})
    without: str = ""
    """A claim that it lacks."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that it has besides, or instead; a duration is a time from when it is used."""

    def __str__(self) -> str:
        claims = self.payload()
        key = self.key or (ec_key(0) if self.algorithm.startswith("ES") else rsa_key(0))
        return jwt.encode(claims, key, algorithm=self.algorithm, headers=self.headers)

    def payload(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "scope": "students:read other",
            "iat": now,
            "exp": now + timedelta(minutes=5),
            **self.claims,
        }
        claims = {name: now + value if isinstance(value, timedelta) else value for name, value in claims.items()}
        return {name: value for name, value in claims.items() if name != self.without}


def forged(header: dict[str, Any], secret: bytes | None = None) -> str:
    """What no library would make: a token with any header, signed with a secret or not at all."""
    payload = {**Token().payload(), "iat": 0, "exp": 4_000_000_000}
    signed = b".".join(_base64(json.dumps(part).encode()) for part in (header, payload))
    signature = b"" if secret is None else _base64(hmac.digest(secret, signed, hashlib.sha256))
    return (signed + b"." + signature).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
