"""How often somebody may try, in windows that all replicas share; counted before it is looked at what they sent."""

from __future__ import annotations

import hmac
from hashlib import sha256

from brolly.core.networks import network_of
from brolly.core.tokens import derive
from brolly.deps import Deps

_COUNT = """
insert into brolly.authorization_limits as l (subject, hits, until)
values ($1, 1, now() + make_interval(secs => $2))
on conflict (subject) do update set
    hits = case when l.until <= now() then 1 else l.hits + 1 end,
    until = case when l.until <= now() then excluded.until else l.until end
returning l.hits, ceil(extract(epoch from l.until - now()))::int as wait
"""
_SWEEP = "delete from brolly.authorization_limits where until <= now()"

FAILURES, FAILURE_SECONDS = 10, 1800
STRANGERS, STRANGER_SECONDS = 100, 3600
REGISTRATIONS, REGISTRATION_SECONDS = 20, 3600
_KNOWN_SECONDS = 90 * 86400


def _subject(deps: Deps, text: str) -> bytes:
    return hmac.new(derive(deps.secret, "authorization-limits").encode(), text.encode(), sha256).digest()


async def _count(deps: Deps, subject: str, most: int, seconds: int) -> int | None:
    row = await deps.control.fetchrow(_COUNT, _subject(deps, subject), seconds)
    return max(1, int(row["wait"])) if row["hits"] > most * deps.settings.auth_limit_factor else None


async def admit_sign_in(deps: Deps, ip: str | None) -> int | None:
    """Count an attempt as failed; seconds to wait when there were too many.

    Networks from which the owner signed in before are counted apart, so that strangers cannot lock the owner out.
    """
    await deps.control.execute(_SWEEP)
    network = network_of(ip)
    if (wait := await _count(deps, f"failures:{network}", FAILURES, FAILURE_SECONDS)) is not None:
        return wait
    known = await deps.control.fetchval(
        "select 1 from brolly.authorization_limits where subject = $1 and until > now()",
        _subject(deps, f"known:{network}"),
    )
    return None if known else await _count(deps, "strangers", STRANGERS, STRANGER_SECONDS)


async def signed_in(deps: Deps, ip: str | None) -> None:
    """Forget the network's failures, and know it from now on."""
    network = network_of(ip)
    await deps.control.execute(
        "delete from brolly.authorization_limits where subject = $1", _subject(deps, f"failures:{network}")
    )
    await deps.control.execute(
        "insert into brolly.authorization_limits (subject, hits, until) values ($1, 0, now() + make_interval(secs => "
        "$2)) on conflict (subject) do update set until = excluded.until",
        _subject(deps, f"known:{network}"),
        _KNOWN_SECONDS,
    )


async def admit_registration(deps: Deps, ip: str | None) -> int | None:
    """Count a registration; seconds to wait when there were too many."""
    return await _count(deps, f"register:{network_of(ip)}", REGISTRATIONS, REGISTRATION_SECONDS)


async def forgive_all(deps: Deps) -> None:
    """Forget every failure: whoever sets a password on the server's machine is the owner."""
    await deps.control.execute("delete from brolly.authorization_limits")
