"""Sessions: a refresh token that changes with each use, and the access tokens issued for it."""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from brolly.auth.access import shown_user
from brolly.auth.signing import sign
from brolly.core.caller import Caller
from brolly.core.tokens import hash_key
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App

log = logging.getLogger("brolly.auth")

USER = "id, email, email_verified, display_name, avatar_url, provider, disabled_at, mfa_enabled_at"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TTL = re.compile(r"(\d+)([smhd])")


@dataclass(frozen=True, slots=True)
class Grant:
    """A session, and the refresh token that renews it next."""

    session: str
    refresh_token: str


def ttl_seconds(text: str) -> int:
    """``15m`` in seconds. Raises ``ValueError`` for what is not a number and one of s, m, h, d."""
    match = _TTL.fullmatch(text)
    if match is None:
        raise ValueError("expected a number followed by s, m, h or d, such as 15m")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _life(app: App) -> timedelta:
    return timedelta(days=app.jwt_config.get("refreshTokenTtlDays", 7))


async def open_session(connection: Connection, app: App, user_id: Any, caller: Caller) -> Grant:
    """Sign the user in on one device. Of the refresh token only a hash is kept."""
    # A little of what has expired goes with each sign-in, so that the table does not grow.
    await connection.execute(
        "delete from auth.sessions where id in (select id from auth.sessions where expires_at <= now() "
        "limit 10 for update skip locked)"
    )
    session = await connection.fetchval(
        "insert into auth.sessions (user_id, ip, user_agent, expires_at) values ($1, $2, $3, now() + $4) returning id",
        user_id,
        caller.ip,
        caller.user_agent,
        _life(app),
    )
    await connection.execute("update auth.users set last_sign_in_at = now() where id = $1", user_id)
    return await _add_token(connection, app, session)


async def _add_token(connection: Connection, app: App, session: Any) -> Grant:
    token = secrets.token_urlsafe(32)
    await connection.execute(
        "insert into auth.refresh_tokens (token_hash, session_id, expires_at) values ($1, $2, now() + $3)",
        hash_key(token),
        session,
        _life(app),
    )
    return Grant(str(session), token)


async def rotate(connection: Connection, app: App, token: str) -> tuple[Any, Grant] | None:
    """The user and the next refresh token; None when this one is unknown, expired or was used before.

    A second use means that two hold it, one of them a thief: the whole session ends. The
    caller must let the transaction commit in that case too.
    """
    session = await connection.fetchval(
        "select session_id from auth.refresh_tokens where token_hash = $1", hash_key(token)
    )
    # Whoever holds the session's row goes first; only then is it certain whether the token was used.
    if session is None or not await connection.fetchval(
        "select 1 from auth.sessions where id = $1 for update", session
    ):
        return None
    found = await connection.fetchrow(
        "select used_at is not null as used, expires_at > now() as live from auth.refresh_tokens where token_hash = $1",
        hash_key(token),
    )
    if found["used"]:
        await connection.execute("delete from auth.sessions where id = $1", session)
        log.warning("app %s: a refresh token was used twice; its session %s was ended", app.id, session)
        return None
    user = await connection.fetchrow(
        f"select {USER} from auth.users where id = (select user_id from auth.sessions where id = $1)", session
    )
    if not found["live"] or user["disabled_at"] is not None:
        return None
    await connection.execute("delete from auth.refresh_tokens where session_id = $1 and expires_at <= now()", session)
    await connection.execute("update auth.refresh_tokens set used_at = now() where token_hash = $1", hash_key(token))
    await connection.execute("update auth.sessions set expires_at = now() + $2 where id = $1", session, _life(app))
    return user, await _add_token(connection, app, session)


async def end_sessions(connection: Connection, user_id: Any, *, but: str | None = None) -> int:
    """End every session of the user, ``but`` that one; how many there were."""
    ended = await connection.fetch(
        "delete from auth.sessions where user_id = $1 and id::text is distinct from $2 returning 1", user_id, but
    )
    return len(ended)


async def token_set(deps: Deps, app: App, user: Any, grant: Grant) -> dict[str, Any]:
    """What a client keeps, in both spellings."""
    seconds = ttl_seconds(app.jwt_config.get("accessTokenTtl", "15m"))
    claims = {
        "sub": str(user["id"]),
        "email": user["email"],
        "email_verified": user["email_verified"],
        "app_id": app.id,
        "role": "authenticated",
        "sid": grant.session,
    }
    token = await sign(deps, app, claims, seconds)
    return {
        "access_token": token,
        "refresh_token": grant.refresh_token,
        "expires_in": seconds,
        "token_type": "Bearer",
        "accessToken": token,
        "refreshToken": grant.refresh_token,
        "expiresIn": seconds,
        "tokenType": "Bearer",
        "user": shown_user(user),
    }
