"""The owner: a password and a second factor, set on the server's machine, and sessions of browsers."""

from __future__ import annotations

import base64
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from urllib.parse import quote, urlencode

import anyio
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from brolly.authorization import limits
from brolly.core.errors import AppError
from brolly.core.tokens import hash_key
from brolly.core.totp import STEP_SECONDS, matching_step
from brolly.deps import Deps
from brolly.sealing import seal, unseal

SHORTEST, LONGEST = 12, 256
SESSION_SECONDS = 8 * 3600
ACCOUNT = "owner"

T = TypeVar("T")

# As for end users: argon2id, 19 MiB, two passes.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


@cache
def _limiter() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(2)


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, limiter=_limiter())


@dataclass(frozen=True, slots=True)
class Session:
    """A browser in which the owner is signed in. ``token`` is the secret in its cookie."""

    account_id: str
    token: str


async def set_password(deps: Deps, account_id: str, password: str) -> None:
    """Set the owner's password. Every browser is signed out, and failed attempts are forgotten."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise AppError(
            "VALIDATION_WEAK_PASSWORD",
            f"The password has {len(password)} characters; {SHORTEST} to {LONGEST} are needed.",
            remediation="Run brolly owner password again with another; length is all that counts.",
        )
    hashed = await _in_thread(lambda: _HASHER.hash(unicodedata.normalize("NFKC", password)))
    await deps.control.execute(
        "insert into brolly.owner_logins (account_id, password_hash) values ($1, $2) on conflict (account_id) "
        "do update set password_hash = excluded.password_hash, password_set_at = now()",
        account_id,
        hashed,
    )
    await deps.control.execute("delete from brolly.owner_sessions where account_id = $1", account_id)
    await limits.forgive_all(deps)


async def remove_password(deps: Deps, account_id: str) -> bool:
    """Let nobody sign in any more; whether there was a password."""
    done = await deps.control.fetchval("delete from brolly.owner_logins where account_id = $1 returning 1", account_id)
    return done is not None


async def is_enabled(deps: Deps) -> bool:
    """Whether an owner can sign in here at all."""
    return await deps.control.fetchval("select 1 from brolly.owner_logins limit 1") is not None


def new_factor(account: str, place: str) -> tuple[bytes, str, str]:
    """A secret for an authenticator: as bytes, as people type it, and as an address for a QR code."""
    secret = secrets.token_bytes(20)
    text = base64.b32encode(secret).decode().rstrip("=")
    query = urlencode({"secret": text, "issuer": "Brolly", "algorithm": "SHA1", "digits": 6, "period": STEP_SECONDS})
    return secret, text, f"otpauth://totp/{quote(f'Brolly:{account}@{place}')}?{query}"


async def set_factor(deps: Deps, account_id: str, secret: bytes | None, code: str = "") -> None:
    """Put the second factor in force with its first code, or (None) take it away. Every browser is signed out."""
    step = None if secret is None else matching_step(secret, code.strip().replace(" ", ""), time.time())
    if secret is not None and step is None:
        raise AppError(
            "AUTH_INVALID_CODE",
            "The code is not the one that the authenticator should show now.",
            remediation="See that the clocks of both devices are right, then run brolly owner totp again.",
        )
    sealed = None if secret is None else seal(deps, account_id, "owner-totp", secret)
    done = await deps.control.fetchval(
        "update brolly.owner_logins set totp_secret = $2, totp_last_step = $3 where account_id = $1 returning 1",
        account_id,
        sealed,
        step,
    )
    if done is None:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "A second factor needs a password first.",
            remediation="Run brolly owner password.",
        )
    await deps.control.execute("delete from brolly.owner_sessions where account_id = $1", account_id)


async def needs_code(deps: Deps) -> bool:
    """Whether signing in takes a code as well."""
    return await deps.control.fetchval("select 1 from brolly.owner_logins where totp_secret is not null") is not None


async def sign_in(deps: Deps, ip: str | None, password: str, code: str) -> Session | None:
    """A session for the right password and code; None otherwise, whichever was wrong.

    Raises ``ACCOUNT_LOCKED`` after too many attempts, before anything is looked at.
    """
    wait = await limits.admit_sign_in(deps, ip)
    if wait is not None:
        raise AppError("ACCOUNT_LOCKED", "Too many attempts to sign in.", retry_after=wait)
    row = await deps.control.fetchrow(
        "select l.account_id::text, l.password_hash, l.totp_secret from brolly.owner_logins l "
        "join brolly.accounts a on a.id = l.account_id where a.name = $1",
        ACCOUNT,
    )
    if row is None or len(password) > LONGEST:
        return None
    right = await _in_thread(lambda: _is_password(row["password_hash"], password))
    if not right or (row["totp_secret"] is not None and not await _use_code(deps, row, code)):
        return None
    token = secrets.token_urlsafe(32)
    await deps.control.execute("delete from brolly.owner_sessions where expires_at <= now()")
    # Not if the password was changed while this one was looked at.
    made = await deps.control.fetchval(
        "insert into brolly.owner_sessions (token_hash, account_id, expires_at) "
        "select $1, account_id, now() + make_interval(secs => $3) from brolly.owner_logins "
        "where account_id = $2 and password_hash = $4 returning 1",
        hash_key(token),
        row["account_id"],
        SESSION_SECONDS,
        row["password_hash"],
    )
    if made is None:
        return None
    await limits.signed_in(deps, ip)
    return Session(row["account_id"], token)


def _is_password(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, unicodedata.normalize("NFKC", password))
    except (Argon2Error, InvalidHashError):
        return False


async def _use_code(deps: Deps, row: dict[str, str], code: str) -> bool:
    """Whether it is the code of now; it is good for one use, whichever replica gets it first."""
    secret = unseal(deps, row["account_id"], "owner-totp", bytes(row["totp_secret"]))  # type: ignore[arg-type]
    step = matching_step(secret, code.strip().replace(" ", ""), time.time())
    if step is None:
        return False
    used = await deps.control.fetchval(
        "update brolly.owner_logins set totp_last_step = $2 where account_id = $1 and totp_secret = $3 "
        "and coalesce(totp_last_step, 0) < $2 returning 1",
        row["account_id"],
        step,
        row["totp_secret"],
    )
    return used is not None


async def session_of(deps: Deps, token: str | None) -> Session | None:
    """The session of a browser's cookie, if it still lasts."""
    if not token or len(token) > 100:
        return None
    account = await deps.control.fetchval(
        "select account_id::text from brolly.owner_sessions where token_hash = $1 and expires_at > now()",
        hash_key(token),
    )
    return None if account is None else Session(account, token)


async def end_session(deps: Deps, token: str) -> None:
    """Sign a browser out."""
    await deps.control.execute("delete from brolly.owner_sessions where token_hash = $1", hash_key(token))
