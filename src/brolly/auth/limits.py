"""How often somebody may try: per address, per account, and failures in a row. Shared by all replicas.

Keys are hashes of what was sent, whether such an account exists or not: limits tell nobody who has one.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from brolly.auth.access import users_of
from brolly.auth.sealing import keyed_hash
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App

WINDOW_SECONDS = 900
FAILURES = 10
LOCKED_SECONDS = 1800
_REMEMBERED_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class Rule:
    """Attempts in a window. ``failures`` counts towards the lock-out as well, until the attempt succeeds."""

    per_address: int
    per_account: int
    failures: bool = False


RULES = {
    "signup": Rule(5, 5),
    "login": Rule(10, 30, failures=True),
    "refresh": Rule(20, 0),
    "verify": Rule(10, 10),
    "resend": Rule(3, 3),
    "forgot": Rule(3, 3),
    "reset": Rule(5, 10),
    "magic": Rule(5, 5),
    "magic_verify": Rule(10, 10),
    "mfa": Rule(10, 30, failures=True),
}

_COUNT = """
insert into auth.limits as l (key, hits, until)
select k, 1, now() + make_interval(secs => $2) from unnest($1::bytea[]) k order by k
on conflict (key) do update set
    hits = case when l.until <= now() then 1 else l.hits + 1 end,
    until = case when l.until <= now() then excluded.until else l.until end
returning l.key, l.hits, ceil(extract(epoch from l.until - now()))::int as wait
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
    keys: dict[bytes, int] = {}
    # A server that acts for its users with the owner's key has one address for all of them.
    if not caller.may_see(app.id, app.account_id):
        keys[_key(deps, app, f"{name}:ip:{_network(caller.ip)}")] = rule.per_address * factor
    if account is not None:
        keys[_key(deps, app, f"{name}:account:{account}")] = rule.per_account * factor
    failed = _key(deps, app, f"failures:{account}") if rule.failures and account is not None else None
    async with users_of(deps, app, durable=False) as connection:
        wait = await _count(connection, keys)
        locked = None if failed is None else await _fail(connection, failed, count=wait is None)
        await connection.execute(_SWEEP)
    if locked is not None:
        raise AppError("ACCOUNT_LOCKED", "Too many failures in a row; the account is locked.", retry_after=locked)
    if wait is not None:
        raise AppError("QUOTA_RATE_LIMIT", "Too many attempts in a short time.", retry_after=wait)


async def _count(connection: Connection, keys: dict[bytes, int]) -> int | None:
    """Seconds to wait when one of the keys is over its limit."""
    rows: list[Any] = await connection.fetch(_COUNT, list(keys), WINDOW_SECONDS)
    waits = [int(row["wait"]) for row in rows if row["hits"] > keys[row["key"]]]
    return max(1, *waits) if waits else None


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


async def forgive(deps: Deps, app: App, connection: Connection, account: str, *, one: bool = False) -> bool:
    """Forget the account's failures in a row (or the ``one`` just counted); whether it had been locked."""
    key = _key(deps, app, f"failures:{account}")
    if one:
        await connection.execute("update auth.limits set hits = hits - 1 where key = $1 and hits > 0", key)
        return False
    hits = await connection.fetchval("delete from auth.limits where key = $1 and until > now() returning hits", key)
    return bool(hits and hits >= FAILURES)


async def locked_until(deps: Deps, app: App, connection: Connection, account: str) -> Any:
    """When the account's lock ends; None when it is not locked."""
    return await connection.fetchval(
        "select until from auth.limits where key = $1 and hits >= $2 and until > now()",
        _key(deps, app, f"failures:{account}"),
        FAILURES,
    )


def _key(deps: Deps, app: App, subject: str) -> bytes:
    return keyed_hash(deps, app, "limits", subject)


def _network(ip: str | None) -> str:
    """The address; of IPv6 the half that one subscriber has."""
    try:
        address = ipaddress.ip_address(ip or "")
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
