"""How often somebody may try: per address, per account, and failures in a row. Shared by all replicas.

Keys are hashes of what was sent, whether such an account exists or not: limits tell nobody who has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brolly.auth.access import users_of
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.networks import network_of
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.sealing import keyed_hash

WINDOW_SECONDS = 900
FAILURES = 10
LOCKED_SECONDS = 1800
_REMEMBERED_SECONDS = 86400
DAILY_CODES = 50
_DAY_SECONDS = 86400
_KNOWN_SECONDS = 90 * 86400


@dataclass(frozen=True, slots=True)
class Rule:
    """Attempts in a window. ``failures`` counts towards the lock-out as well, until the attempt succeeds;
    ``daily`` caps guesses at codes. What an account allows is well above what one address may do to it.
    """

    per_address: int
    per_account: int
    failures: bool = False
    daily: bool = False


RULES = {
    "signup": Rule(5, 20),
    "login": Rule(10, 30, failures=True),
    "refresh": Rule(20, 0),
    "verify": Rule(10, 40),
    "resend": Rule(3, 12),
    "forgot": Rule(3, 12),
    "reset": Rule(5, 20, daily=True),
    "magic": Rule(5, 20),
    "magic_verify": Rule(10, 40, daily=True),
    "mfa": Rule(10, 30, failures=True),
    "oauth": Rule(30, 0),
    "oauth_callback": Rule(30, 0),
}

_COUNT = """
insert into auth.limits as l (key, hits, until)
values ($1, 1, now() + make_interval(secs => $2))
on conflict (key) do update set
    hits = case when l.until <= now() then 1 else l.hits + 1 end,
    until = case when l.until <= now() then excluded.until else l.until end
returning l.hits, ceil(extract(epoch from l.until - now()))::int as wait
"""
# Counted before the password is looked at, so that attempts at the same moment cannot slip through together.
_FAIL = """
insert into auth.limits as l (key, hits, until) values ($1, 1, now() + make_interval(secs => $2))
on conflict (key) do update set
    hits = case when l.until <= now() then 1 else l.hits + 1 end,
    until = case when l.until > now() and l.hits >= $3 then l.until
                 when l.until > now() and l.hits + 1 = $3 then now() + make_interval(secs => $4)
                 else excluded.until end
returning l.hits, ceil(extract(epoch from l.until - now()))::int as wait
"""
_SWEEP = (
    "delete from auth.limits where key in "
    "(select key from auth.limits where until <= now() limit 10 for update skip locked)"
)


async def admit(deps: Deps, app: App, caller: Caller, name: str, account: str | None = None) -> None:
    """Count an attempt on the account (an address in its normal form); raises when there were too many."""
    rule, factor = RULES[name], deps.settings.auth_limit_factor
    # In this order: what one limit refuses does not count towards the next, so that one address
    # cannot use up what an account allows.
    limits: list[tuple[str, int, int]] = []
    if not _serves(app, caller):
        limits.append((f"{name}:ip:{network_of(caller.ip)}", rule.per_address * factor, WINDOW_SECONDS))
    if account is not None:
        limits.append((f"{name}:account:{account}", rule.per_account * factor, WINDOW_SECONDS))
        if rule.daily:
            limits.append((_daily(name, account), DAILY_CODES, _DAY_SECONDS))
    locked = None
    async with users_of(deps, app, durable=False) as connection:
        wait = await _count(deps, app, connection, limits)
        if rule.failures and account is not None:
            failed = await _failures(deps, app, connection, caller, account)
            locked = await _fail(connection, failed, count=wait is None)
        await connection.execute(_SWEEP)
    if locked is not None:
        raise AppError("ACCOUNT_LOCKED", "Too many failures in a row; the account is locked.", retry_after=locked)
    if wait is not None:
        raise AppError("QUOTA_RATE_LIMIT", "Too many attempts in a short time.", retry_after=wait)


def _serves(app: App, caller: Caller) -> bool:
    """Whether it is a server that acts for its users with the owner's key: it has one address for all of them."""
    return caller.may_see(app.id, app.account_id) and not caller.read_only


async def _count(deps: Deps, app: App, connection: Connection, limits: list[tuple[str, int, int]]) -> int | None:
    """Seconds to wait when one of the limits (subject, most, seconds) is reached."""
    for subject, most, seconds in limits:
        row = await connection.fetchrow(_COUNT, _key(deps, app, subject), seconds)
        if row["hits"] > most:
            return max(1, int(row["wait"]))
    return None


async def _failures(deps: Deps, app: App, connection: Connection, caller: Caller, account: str) -> bytes:
    """Where failures are counted: from addresses that signed in to the account before apart from all others,
    so that strangers cannot lock out who is known.
    """
    known = not _serves(app, caller) and await connection.fetchval(
        "select 1 from auth.limits where key = $1 and until > now()", _known(deps, app, caller, account)
    )
    strangers, friends = _failure_keys(deps, app, account)
    return friends if known else strangers


async def _fail(connection: Connection, key: bytes, *, count: bool) -> int | None:
    """Seconds for which the account is still locked. What is refused anyway is not counted as a failure."""
    if count:
        row = await connection.fetchrow(_FAIL, key, _REMEMBERED_SECONDS, FAILURES, LOCKED_SECONDS)
        over = row["hits"] > FAILURES
    else:
        row = await connection.fetchrow(
            "select ceil(extract(epoch from until - now()))::int as wait from auth.limits "
            "where key = $1 and hits >= $2 and until > now()",
            key,
            FAILURES,
        )
        over = row is not None
    return max(1, int(row["wait"])) if over else None


async def forgive(deps: Deps, app: App, connection: Connection, account: str) -> bool:
    """Forget the account's failures in a row; whether it had been locked."""
    rows = await connection.fetch(
        "delete from auth.limits where key = any($1::bytea[]) and until > now() returning hits",
        _failure_keys(deps, app, account),
    )
    return any(row["hits"] >= FAILURES for row in rows)


async def forgive_one(deps: Deps, app: App, connection: Connection, caller: Caller, account: str) -> None:
    """Take back the failure just counted."""
    key = await _failures(deps, app, connection, caller, account)
    await connection.execute("update auth.limits set hits = hits - 1 where key = $1 and hits > 0", key)


async def signed_in(deps: Deps, app: App, connection: Connection, caller: Caller, account: str) -> None:
    """Forget the failures in a row, and know the address from now on."""
    await forgive(deps, app, connection, account)
    if not _serves(app, caller):
        await connection.execute(
            "insert into auth.limits (key, hits, until) values ($1, 1, now() + make_interval(secs => $2)) "
            "on conflict (key) do update set until = excluded.until",
            _known(deps, app, caller, account),
            _KNOWN_SECONDS,
        )


async def right_code(deps: Deps, app: App, connection: Connection, name: str, account: str | None) -> None:
    """Take the attempt back from the daily cap: only wrong codes use it up."""
    if account is not None:
        key = _key(deps, app, _daily(name, account))
        await connection.execute("update auth.limits set hits = hits - 1 where key = $1 and hits > 0", key)


async def locked_until(deps: Deps, app: App, connection: Connection, account: str) -> Any:
    """When the account's lock ends; None when it is not locked."""
    return await connection.fetchval(
        "select max(until) from auth.limits where key = any($1::bytea[]) and hits >= $2 and until > now()",
        _failure_keys(deps, app, account),
        FAILURES,
    )


def _failure_keys(deps: Deps, app: App, account: str) -> list[bytes]:
    return [_key(deps, app, f"{kind}:{account}") for kind in ("failures", "known-failures")]


def _daily(name: str, account: str) -> str:
    return f"{name}:day:{account}"


def _known(deps: Deps, app: App, caller: Caller, account: str) -> bytes:
    return _key(deps, app, f"known:{network_of(caller.ip)}:{account}")


def _key(deps: Deps, app: App, subject: str) -> bytes:
    return keyed_hash(deps, app, "limits", subject)
