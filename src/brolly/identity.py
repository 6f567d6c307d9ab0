"""Credentials become a ``Caller`` here, for every entrance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from brolly.auth.service import caller_of_token
from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.core.tokens import is_service_key
from brolly.deps import Deps
from brolly.keys.service import caller_of_key


def authorization_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The ``Authorization`` header of a request; two of them are refused, since which one counts is a guess."""
    found = [value.decode("latin-1") for name, value in headers if name.lower() == b"authorization"]
    if len(found) > 1:
        raise AppError("AUTH_INVALID_TOKEN", "The request has more than one Authorization header.")
    return found[0] if found else None


async def identify(deps: Deps, authorization: str | None, **origin: Any) -> Caller:
    """The caller of an ``Authorization`` header; nobody without one.

    A header that does not hold a valid credential is refused: a mistyped key must not
    silently mean "anonymous". ``origin`` is ``request_id``, ``ip`` and ``user_agent``.
    """
    if authorization is None:
        return anonymous(**origin)
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AppError("AUTH_INVALID_TOKEN", "The Authorization header must read: Bearer <key>.")
    if not is_service_key(token):
        user = await caller_of_token(deps, token, **origin)
        if user is None:
            raise AppError("AUTH_INVALID_TOKEN", "The bearer token is neither a service key nor a user's access token.")
        return user
    caller = await caller_of_key(deps, token, **origin)
    if caller is None:
        raise AppError("AUTH_INVALID_API_KEY", "This service key is unknown, revoked or expired.")
    return caller
