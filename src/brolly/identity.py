"""Credentials become a ``Caller`` here, for every entrance."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode
from weakref import WeakKeyDictionary

from brolly.auth.service import caller_of_token
from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.core.tokens import is_service_key
from brolly.deps import Deps
from brolly.keys.service import caller_of_key
from brolly.registry import App, Registry

_KEPT_TOKENS = 2000


@dataclass(frozen=True, slots=True)
class _Verified:
    """What an access token said, and the record of its app as it was when the signature was checked."""

    app: App
    claims: Mapping[str, Any]
    expires: float


_VERIFIED: WeakKeyDictionary[Registry, OrderedDict[bytes, _Verified]] = WeakKeyDictionary()
"""By the token's hash, so that no token lies in memory."""


def authorization_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The ``Authorization`` header of a request; two of them are refused, since which one counts is a guess."""
    found = [value.decode("latin-1") for name, value in headers if name.lower() == b"authorization"]
    if len(found) > 1:
        raise AppError("AUTH_INVALID_TOKEN", "The request has more than one Authorization header.")
    return found[0] if found else None


def take_token(scope: MutableMapping[str, Any]) -> str | None:
    """The parameter ``token``, which is taken out of the query, lest it is written to a log."""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    tokens = [value for name, value in pairs if name == "token" and value]
    scope["query_string"] = urlencode([(n, v) for n, v in pairs if n != "token"]).encode("latin-1")
    if len(set(tokens)) > 1:
        raise AppError("AUTH_INVALID_TOKEN", "The address has more than one token.")
    return tokens[0] if tokens else None


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
        return await _user(deps, token, origin)
    caller = await caller_of_key(deps, token, **origin)
    if caller is None:
        raise AppError("AUTH_INVALID_API_KEY", "This service key is unknown, revoked or expired.")
    return caller


async def _user(deps: Deps, token: str, origin: Mapping[str, Any]) -> Caller:
    """The end user of an access token.

    A token that was verified need not be again while it lasts and the registry knows the very same record of its
    app: the keys that sign are renewed with a new record, on every replica, and so are the app's own changes.
    """
    kept = _VERIFIED.get(deps.registry)
    if kept is None:
        kept = _VERIFIED[deps.registry] = OrderedDict()
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    known = kept.get(digest)
    if known is not None:
        if time.time() < known.expires and await deps.registry.find(known.app.id) is known.app:
            return Caller("user", user_id=str(known.claims["sub"]), claims=known.claims, **origin)
        kept.pop(digest, None)
    user = await caller_of_token(deps, token, **origin)
    if user is None:
        raise AppError("AUTH_INVALID_TOKEN", "The bearer token is neither a service key nor a user's access token.")
    app = await deps.registry.find(user.claims["app_id"])
    if app is not None and app.status == "ready":
        kept[digest] = _Verified(app, user.claims, float(user.claims["exp"]))
        while len(kept) > _KEPT_TOKENS:
            kept.popitem(last=False)
    return user
