"""A second factor: codes that change with the time (RFC 6238), and recovery codes for a lost device."""

from __future__ import annotations

import base64
import secrets
import time
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import Field

from brolly.auth.access import open_app, require_user, users_of
from brolly.auth.entry import Entry, answer
from brolly.auth.events import note
from brolly.auth.hook import keep_hook
from brolly.auth.identities import has_mailbox
from brolly.auth.limits import admit, forgive, signed_in
from brolly.auth.service import Reply
from brolly.auth.sessions import USER, end_sessions, open_session
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tokens import hash_key
from brolly.core.tool import AppParams
from brolly.core.totp import STEP_SECONDS, matching_step
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.sealing import keyed_hash, seal, unseal

RECOVERY_CODES = 10
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_TRIES = 5

_CHALLENGED = (
    "from auth.codes c join auth.users u on u.id = c.user_id where c.kind = 'mfa' and c.token_hash = $1 "
    "and c.used_at is null and c.expires_at > now()"
)


class FactorCode(AppParams):
    """Body with a code of the second factor, or a recovery code."""

    code: str = Field(max_length=40)


class Challenge(FactorCode):
    """Body of verify."""

    mfa_token: str = Field(max_length=200)


def _invalid() -> AppError:
    return AppError("AUTH_INVALID_CODE", "The code is wrong, was used already or has expired.")


async def _user(connection: Connection, user_id: str) -> Any:
    row = await connection.fetchrow(
        f"select {USER}, mfa_secret from auth.users where id = $1 and disabled_at is null", user_id
    )
    if row is None:
        raise AppError("RESOURCE_NOT_FOUND", "This user no longer exists, or is disabled.")
    return row


def _require_confirmed(user: Any) -> None:
    # Otherwise who signed up with another's address could shut the owner of the mailbox out.
    if not user["email_verified"] and has_mailbox(user):
        raise AppError(
            "AUTH_FORBIDDEN",
            "The address must be confirmed before a second factor is set up.",
            remediation="Confirm it first with POST /auth/{app_id}/verify-email, sending the access token along; "
            "verify-email/resend sends a new code, and butterbase_docs explains it under auth.",
        )


async def enroll(deps: Deps, caller: Caller, params: AppParams) -> Reply:
    """A new secret and recovery codes, shown this once. The factor holds once its first code was sent."""
    app = await open_app(deps, params.app_id)
    user_id = require_user(caller, app)
    secret = secrets.token_bytes(20)
    codes = ["".join(secrets.choice(_ALPHABET) for _ in range(10)) for _ in range(RECOVERY_CODES)]
    async with users_of(deps, app) as connection:
        user = await _user(connection, user_id)
        _require_confirmed(user)
        made = await connection.fetchval(
            "update auth.users set mfa_secret = $2, mfa_last_step = null where id = $1 and mfa_enabled_at is null "
            "returning 1",
            user["id"],
            seal(deps, app, f"mfa:{user['id']}", secret),
        )
        if made is None:
            raise AppError(
                "RESOURCE_CONFLICT",
                "A second factor is in force already.",
                remediation="Remove it first with DELETE /auth/{app_id}/mfa and a code; "
                "butterbase_docs explains it under auth.",
            )
        await connection.execute("delete from auth.recovery_codes where user_id = $1", user["id"])
        await connection.executemany(
            "insert into auth.recovery_codes (user_id, code_hash) values ($1, $2)",
            [(user["id"], _recovery_hash(deps, app, user["id"], code)) for code in codes],
        )
    text = base64.b32encode(secret).decode().rstrip("=")
    label = quote(f"{app.name}:{user['email']}")
    query = urlencode({"secret": text, "issuer": app.name, "algorithm": "SHA1", "digits": 6, "period": STEP_SECONDS})
    shown = [f"{code[:5]}-{code[5:]}" for code in codes]
    return Reply({"secret": text, "otpauth_url": f"otpauth://totp/{label}?{query}", "recovery_codes": shown}, app)


async def activate(deps: Deps, caller: Caller, params: FactorCode) -> Reply:
    """Put the factor in force with its first code. The user's other sessions end: they had one factor alone."""
    app = await open_app(deps, params.app_id)
    user_id = require_user(caller, app)
    await admit(deps, app, caller, "mfa", str(caller.claims.get("email")))
    async with users_of(deps, app) as connection:
        user = await _user(connection, user_id)
        _require_confirmed(user)
        right = user["mfa_enabled_at"] is None and await _use_totp(deps, app, connection, user, params.code)
        if right:
            await connection.execute("update auth.users set mfa_enabled_at = now() where id = $1", user["id"])
            await end_sessions(connection, user["id"], but=caller.claims.get("sid"))
            await forgive(deps, app, connection, user["email"])
    if not right:
        raise _invalid()
    await note(deps, app, caller, "mfa_enabled", user_id)
    return Reply({"message": "Signing in now needs a code of the second factor.", "mfa_enabled": True}, app)


async def verify(deps: Deps, caller: Caller, params: Challenge) -> Reply:
    """The login answer, for the token that login gave and a code of the second factor."""
    app = await open_app(deps, params.app_id)
    async with users_of(deps, app) as connection:
        email = await connection.fetchval(f"select u.email {_CHALLENGED}", hash_key(params.mfa_token))
    await admit(deps, app, caller, "mfa", email)
    async with users_of(deps, app) as connection:
        user, entry = await _meet(deps, app, caller, connection, params)
        set_off = await keep_hook(deps, app, connection, "login", user, when=entry is not None)
    if entry is None:
        await note(deps, app, caller, "mfa", str(user["id"]) if user else None, error="AUTH_INVALID_CODE")
        raise _invalid()
    body = await answer(deps, app, user, entry)
    await note(deps, app, caller, "login", str(user["id"]))
    set_off()
    return Reply(body, app)


async def _meet(
    deps: Deps, app: App, caller: Caller, connection: Connection, params: Challenge
) -> tuple[Any, Entry | None]:
    """The user of the token, and the way in if the code is right. The try counts either way."""
    user_id = await connection.fetchval(
        "update auth.codes set tries = tries + 1 where kind = 'mfa' and token_hash = $1 and used_at is null "
        "and expires_at > now() and tries < $2 returning user_id",
        hash_key(params.mfa_token),
        _TRIES,
    )
    if user_id is None:
        return None, None
    user = await connection.fetchrow(
        f"select {USER}, mfa_secret from auth.users where id = $1 for no key update", user_id
    )
    if user["disabled_at"] is not None or not await _use_code(deps, app, connection, user, params.code):
        return user, None
    await connection.execute("update auth.codes set used_at = now() where user_id = $1 and kind = 'mfa'", user["id"])
    await signed_in(deps, app, connection, caller, user["email"])
    return user, Entry(await open_session(connection, app, user["id"], caller))


async def remove(deps: Deps, caller: Caller, params: FactorCode) -> Reply:
    """Take the factor away, for a code of it or a recovery code."""
    app = await open_app(deps, params.app_id)
    user_id = require_user(caller, app)
    await admit(deps, app, caller, "mfa", str(caller.claims.get("email")))
    async with users_of(deps, app) as connection:
        user = await _user(connection, user_id)
        right = user["mfa_enabled_at"] is not None and await _use_code(deps, app, connection, user, params.code)
        if right:
            await clear(connection, user["id"])
            await forgive(deps, app, connection, user["email"])
    if not right:
        raise _invalid()
    await note(deps, app, caller, "mfa_disabled", user_id)
    return Reply({"message": "The second factor was removed.", "mfa_enabled": False}, app)


async def clear(connection: Connection, user_id: Any) -> None:
    """Remove the user's second factor and recovery codes."""
    await connection.execute(
        "update auth.users set mfa_secret = null, mfa_enabled_at = null, mfa_last_step = null where id = $1", user_id
    )
    await connection.execute("delete from auth.recovery_codes where user_id = $1", user_id)


async def _use_code(deps: Deps, app: App, connection: Connection, user: Any, code: str) -> bool:
    if await _use_totp(deps, app, connection, user, code):
        return True
    plain = code.replace("-", "").replace(" ", "").upper()
    used = await connection.fetchval(
        "delete from auth.recovery_codes where user_id = $1 and code_hash = $2 returning 1",
        user["id"],
        _recovery_hash(deps, app, user["id"], plain),
    )
    return used is not None


async def _use_totp(deps: Deps, app: App, connection: Connection, user: Any, code: str) -> bool:
    """Whether it is a code of now that was not used before; it is used by this."""
    if user["mfa_secret"] is None:
        return False
    secret = unseal(deps, app, f"mfa:{user['id']}", user["mfa_secret"])
    step = matching_step(secret, code.replace(" ", ""), time.time())
    if step is None:
        return False
    used = await connection.fetchval(
        "update auth.users set mfa_last_step = $2 where id = $1 and coalesce(mfa_last_step, 0) < $2 returning 1",
        user["id"],
        step,
    )
    return used is not None


def _recovery_hash(deps: Deps, app: App, user_id: Any, code: str) -> bytes:
    return keyed_hash(deps, app, "recovery", f"{user_id}:{code}")
