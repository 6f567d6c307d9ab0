"""Sign-ins under way at a provider: one use, ten minutes, one browser; kept where every replica finds them."""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import dataclass

from brolly.auth.access import users_of
from brolly.core.errors import AppError
from brolly.core.tokens import hash_key
from brolly.deps import Deps
from brolly.registry import App
from brolly.sealing import seal, unseal

SECONDS = 600
_COOKIE = "brolly_oauth_"
_ADD = (
    "insert into auth.oauth_states (state_hash, provider, browser_hash, sealed, redirect_uri, redirect_to, expires_at) "
    "values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))"
)
_TAKE = (
    "delete from auth.oauth_states where state_hash = $1 and provider = $2 "
    "returning browser_hash, sealed, redirect_uri, redirect_to, expires_at > now() as live"
)
_SWEEP = (
    "delete from auth.oauth_states where state_hash in "
    "(select state_hash from auth.oauth_states where expires_at <= now() limit 10 for update skip locked)"
)


@dataclass(frozen=True, slots=True)
class Begun:
    """What goes out at the start: ``state`` through the provider, ``browser`` as a cookie, and what stays here."""

    state: str
    browser: str
    verifier: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A sign-in that came back to the browser in which it began."""

    verifier: str
    nonce: str
    redirect_uri: str
    redirect_to: str | None


def cookie_name(state: str) -> str:
    """Of each sign-in its own, so that two tabs do not disturb each other. Tells nothing about the state."""
    return _COOKIE + hash_key(f"cookie:{state}").hex()[:16]


def make() -> Begun:
    """A sign-in that nobody can guess."""
    return Begun(*(secrets.token_urlsafe(size) for size in (32, 32, 48, 24)))


async def begin(deps: Deps, app: App, provider: str, begun: Begun, redirect_uri: str, redirect_to: str | None) -> None:
    """Remember a sign-in that starts now."""
    kept = json.dumps({"verifier": begun.verifier, "nonce": begun.nonce}).encode()
    # Not durable: what a crash takes is begun again.
    async with users_of(deps, app, durable=False) as connection:
        await connection.execute(_SWEEP)
        await connection.execute(
            _ADD,
            hash_key(begun.state),
            provider,
            hash_key(begun.browser),
            seal(deps, app, f"oauth-state:{provider}", kept),
            redirect_uri,
            redirect_to,
            SECONDS,
        )


async def take(deps: Deps, app: App, provider: str, state: str | None, browser: str | None) -> Taken:
    """The sign-in of that state, used up by this. Raises for one that is unknown, over, or another browser's."""
    row = None
    if state:
        async with users_of(deps, app) as connection:
            row = await connection.fetchrow(_TAKE, hash_key(state), provider)
    if row is None or not row["live"]:
        raise _invalid("is unknown, was used already or is older than ten minutes")
    if not browser or not hmac.compare_digest(hash_key(browser), row["browser_hash"]):
        raise _invalid("was begun in another browser, or this one keeps no cookies")
    kept = json.loads(unseal(deps, app, f"oauth-state:{provider}", row["sealed"]))
    return Taken(kept["verifier"], kept["nonce"], row["redirect_uri"], row["redirect_to"])


def _invalid(why: str) -> AppError:
    return AppError("OAUTH_STATE_INVALID", f"This sign-in {why}.")
