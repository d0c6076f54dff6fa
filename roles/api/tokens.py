"""Access tokens (JWT, RFC 7519) of an issuer that this API trusts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import jwt

from roles.api.callers import Caller, Unauthenticated, Verified
from roles.api.jwks import Keys
from schema.settings import Jwt

LONGEST_SUBJECT: Final = 255
"""Characters that `sub` may have (OpenID Connect Core §2)."""

_REQUIRED: Final = ("exp", "iss", "aud", "sub")

_REASONS: Final[Mapping[type[jwt.InvalidTokenError], str]] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidAudienceError: "The token is not meant for this API.",
    jwt.InvalidIssuerError: "The token is not from the issuer that this API trusts.",
    jwt.MissingRequiredClaimError: f"The token lacks one of the claims {', '.join(_REQUIRED)}.",
}
"""What a caller is told; of anything else only that it is not valid. All but the signature is checked after it."""


class Tokens:
    """See `roles.api.callers.Verifier`.

    A token is good if its signature is, by a key of the issuer that its `kid` names, with an algorithm that the
    settings allow; and if its issuer, audience and times are right, give or take `auth.jwt.leeway`. No algorithm with
    a shared secret can be allowed, so a public key cannot be taken for one; `none` is none of them either. What a
    token says about where to find keys (`jku`, `jwk`, `x5u`) is not looked at.
    """

    def __init__(self, settings: Jwt, keys: Keys) -> None:
        self._settings, self._keys = settings, keys
        self._jwt = jwt.PyJWT(options={"require": list(_REQUIRED), "enforce_minimum_key_length": True})

    async def verify(self, credentials: str) -> Verified:
        try:
            header = jwt.get_unverified_header(credentials)
        except jwt.InvalidTokenError:
            raise Unauthenticated("This is not a token.") from None
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in self._settings.algorithms:
            raise Unauthenticated("The token is signed with an algorithm that this API does not accept.")
        if not kid:
            raise Unauthenticated("The token does not name its key (`kid`).")
        key = await self._keys.get(kid, algorithm)
        if key is None:
            raise Unauthenticated("The token is signed with a key that its issuer does not have.")
        try:
            claims = self._jwt.decode(
                credentials,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway,
            )
            until = datetime.fromtimestamp(float(claims["exp"]), UTC) + self._settings.leeway
        except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError) as error:
            reason = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), None)
            raise Unauthenticated(reason or "The token is not valid.") from None
        return Verified(Caller(f"sub:{_subject(claims)}", self._scopes(claims)), until)

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Of the claim `auth.jwt.scope_claim`: a text with spaces (RFC 8693 §4.2), or a list of texts."""
        found = claims.get(self._settings.scope_claim)
        listed = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        return frozenset(scope for scope in listed if isinstance(scope, str))


def _subject(claims: Mapping[str, Any]) -> str:
    subject = str(claims["sub"])
    if not 0 < len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
        raise Unauthenticated("The subject of the token (`sub`) is not a printable name.")
    return subject
