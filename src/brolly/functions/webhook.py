"""Webhooks: other services' requests, let in by their signature and each taken once."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.functions.store import Function, Trigger, find_function, functions_of, missing
from brolly.registry import App
from brolly.sealing import unseal

SEEN_HOURS = 24
LEASE_SECONDS = 30.0
"""Beyond the function's own time: what a server took with it into its end is free again after it."""
_CLAIM = (
    "insert into functions.claims as c (scope, key, expires_at) values ($1, $2, now() + make_interval(secs => $3)) "
    "on conflict (scope, key) do update set expires_at = excluded.expires_at where c.expires_at <= now() returning 1"
)
_KEEP = "update functions.claims set expires_at = now() + make_interval(hours => $3) where scope = $1 and key = $2"
_FORGET = "delete from functions.claims where scope = $1 and key = $2"


async def open_webhook(deps: Deps, app_id: str, name: str) -> tuple[App, Function, Trigger]:
    """The function that the address names. Nobody has a credential here: the signature decides."""
    app = await deps.registry.find(app_id)
    if app is None or app.status != "ready":
        raise missing(name)
    if app.paused_at is not None:
        raise AppError("APP_PAUSED", f"The app {app.id} is paused.", retry_after=60)
    function = await find_function(deps, app, name)
    trigger = function.trigger("webhook")
    if trigger is None or trigger.secret is None:
        raise missing(name)
    return app, function, trigger


def is_signed(
    deps: Deps, app: App, function: Function, trigger: Trigger, headers: Mapping[str, str], body: bytes
) -> bool:
    """Whether the sender knows the secret. Header names in lower case."""
    secret = unseal(deps, app, f"trigger-secret:{function.id}", trigger.secret or b"")
    config = trigger.config
    provider = config.get("provider", "custom")
    if provider == "stripe":
        return _stripe(secret, headers.get("stripe-signature", ""), body, int(config.get("tolerance_seconds", 300)))
    if provider == "github":
        return _equal(secret, body, headers.get("x-hub-signature-256", "").removeprefix("sha256="))
    sent = headers.get(str(config.get("signature_header", "x-signature")).lower(), "")
    return _equal(secret, body, sent.removeprefix("sha256="))


def _equal(secret: bytes, signed: bytes, sent: str) -> bool:
    ours = hmac.new(secret, signed, sha256).hexdigest()
    return hmac.compare_digest(ours.encode(), sent.strip().lower().encode("utf-8", "replace"))


def _stripe(secret: bytes, header: str, body: bytes, tolerance: int) -> bool:
    """``t=<seconds>,v1=<hex>,…`` over ``t.body``; several v1 while a secret is being changed."""
    parts = [part.strip().partition("=") for part in header.split(",")]
    moment = next((value for key, _, value in parts if key == "t"), "")
    if not moment.isascii() or not moment.isdigit() or abs(time.time() - int(moment)) > tolerance:
        return False
    signed = moment.encode() + b"." + body
    # All are compared, so that the time tells nothing.
    return any([_equal(secret, signed, value) for key, _, value in parts if key == "v1"])


def key_of(function: Function, trigger: Trigger, headers: Mapping[str, str]) -> tuple[str, str] | None:
    """By what a repeated delivery is known; None when the sender gives nothing to know it by."""
    name = trigger.config.get("idempotency_key_header")
    value = headers.get(str(name).lower(), "") if name else ""
    return (f"webhook:{function.id}", value[:255]) if value else None


async def is_first(deps: Deps, app: App, function: Function, key: tuple[str, str]) -> bool:
    """Whether this delivery was not seen in the last day, and does not run at this moment; from now on it does."""
    async with functions_of(deps, app) as connection:
        return await connection.fetchval(_CLAIM, *key, function.timeout_ms / 1000 + LEASE_SECONDS) is not None


async def keep(deps: Deps, app: App, key: tuple[str, str]) -> None:
    """The function succeeded: the delivery was seen."""
    async with functions_of(deps, app) as connection:
        await connection.execute(_KEEP, *key, SEEN_HOURS)


async def forget(deps: Deps, app: App, key: tuple[str, str]) -> None:
    """The function failed: the sender's next try is to run."""
    async with functions_of(deps, app) as connection:
        await connection.execute(_FORGET, *key)


def counted_as(function: Function) -> Caller:
    """For whom a delivery counts: a service sends those of many apps from few addresses, with the rights of a key."""
    return Caller("service", key_id=f"webhook:{function.id}")


def caller_of(origin: Any) -> Caller:
    """For whom a webhook runs: the app itself."""
    return Caller("service", request_id=origin.request_id, ip=origin.ip, user_agent=origin.user_agent)
