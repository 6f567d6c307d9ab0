"""One-time codes: six digits to type, or a long token to follow a link with. One of a kind per user."""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta
from typing import Any, Literal

from brolly.auth.sessions import USER
from brolly.core.tokens import hash_key
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.sealing import keyed_hash

Kind = Literal["verify_email", "reset_password", "magic_link", "mfa"]

LIVES: dict[Kind, timedelta] = {
    "verify_email": timedelta(hours=24),
    "reset_password": timedelta(hours=1),
    "magic_link": timedelta(minutes=15),
    "mfa": timedelta(minutes=5),
}
TRIES = 5

_MAKE = (
    "insert into auth.codes (user_id, kind, code_hash, token_hash, expires_at) values ($1, $2, $3, $4, now() + $5) "
    "on conflict (user_id, kind) do update set code_hash = excluded.code_hash, token_hash = excluded.token_hash, "
    "expires_at = excluded.expires_at, tries = 0, used_at = null"
)
_LIVE = "used_at is null and expires_at > now()"
# The try is counted before the code is compared, so that guesses at the same moment cannot slip through together.
_TRY = (
    f"update auth.codes set tries = tries + 1 where kind = $2 and {_LIVE} and tries < $3 "
    "and user_id = (select id from auth.users where email = $1) returning user_id, code_hash"
)
_USE = f"update auth.codes set used_at = now() where user_id = $1 and kind = $2 and {_LIVE} returning user_id"
_FOLLOW = f"update auth.codes set used_at = now() where token_hash = $1 and kind = $2 and {_LIVE} returning user_id"


async def make_code(deps: Deps, app: App, connection: Connection, user_id: Any, kind: Kind) -> tuple[str, str]:
    """A new code and its token, of which only hashes are kept; earlier ones of the kind hold no more."""
    code, token = f"{secrets.randbelow(10**6):06}", secrets.token_urlsafe(32)
    await connection.execute(_MAKE, user_id, kind, _hash(deps, app, user_id, kind, code), hash_key(token), LIVES[kind])
    return code, token


async def redeem(
    deps: Deps, app: App, connection: Connection, kind: Kind, email: str | None, code: str | None, token: str | None
) -> Any:
    """The user whose token, or code for that address, it is, used up by this; else None.

    The caller must let the transaction commit in that case too: the try counts.
    """
    if token is not None:
        user_id = await connection.fetchval(_FOLLOW, hash_key(token), kind)
    else:
        user_id = await _try_code(deps, app, connection, kind, email or "", code or "")
    if user_id is None:
        return None
    return await connection.fetchrow(f"select {USER} from auth.users where id = $1 for no key update", user_id)


async def _try_code(deps: Deps, app: App, connection: Connection, kind: Kind, email: str, code: str) -> Any:
    row = await connection.fetchrow(_TRY, email, kind, TRIES)
    if row is None or not hmac.compare_digest(row["code_hash"], _hash(deps, app, row["user_id"], kind, code)):
        return None
    return await connection.fetchval(_USE, row["user_id"], kind)


def _hash(deps: Deps, app: App, user_id: Any, kind: Kind, code: str) -> bytes:
    return keyed_hash(deps, app, "codes", f"{kind}:{user_id}:{code}")
