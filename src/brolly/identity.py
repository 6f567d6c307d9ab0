"""Credentials become a ``Caller`` here, for every entrance."""

from __future__ import annotations

from typing import Any

from brolly.auth.service import caller_of_token
from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.core.tokens import is_service_key
from brolly.deps import Deps
from brolly.keys.service import caller_of_key


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
