"""How often one may ask: per service key, per end user, per address. One count for all replicas.

A replica takes a share of a subject's window from the control database and spends it from memory, so that a
busy subject costs a handful of statements a minute, not one per request. The shares never exceed the limit
together; what a replica has taken and does not spend is lost to the others until the window ends.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio

from brolly.core.caller import Caller, Kind
from brolly.core.errors import AppError
from brolly.core.networks import network_of
from brolly.core.settings import Settings
from brolly.core.tokens import derive
from brolly.pg.pool import Database

log = logging.getLogger("brolly.rates")

WINDOW_SECONDS = 60
REMEMBERED = 20_000
"""Subjects of one kind in memory. Each kind has its own, so that strangers cannot push out the keys."""
FIRST_SHARE, LARGEST_SHARE = 20, 5
"""A first share is a twentieth of the limit; each further one twice the last, up to a fifth."""
TAKE_SECONDS = 2.0
RETRY_SECONDS = 5.0
SWEEP_SECONDS = 60.0
SWEEP_BATCH = 10_000

BYPASS_HEADER = b"x-rate-limit-bypass"

_TAKE = """
insert into brolly.rate_windows as w (subject, number, taken, granted, ends_at)
values ($1, $2, least($3::bigint, $4::bigint), least($3::bigint, $4::bigint), to_timestamp($5::float8))
on conflict (subject, number) do update set
    granted = greatest(0, least($3::bigint, $4::bigint - w.taken)),
    taken = w.taken + greatest(0, least($3::bigint, $4::bigint - w.taken))
returning w.granted, w.taken
"""
_GIVE_BACK = (
    "update brolly.rate_windows set taken = taken - $3::bigint where subject = $1 and number = $2 and taken >= $3"
)
_SWEEP = (
    "delete from brolly.rate_windows where (subject, number) in (select subject, number from brolly.rate_windows "
    "where ends_at < to_timestamp($1::float8) order by ends_at limit $2 for update skip locked)"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a subject stands after a request: ``reset`` is the seconds until its window ends."""

    limit: int
    remaining: int
    reset: int
    admitted: bool

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As ASGI sends them."""
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % self.reset),
        ]


class _Lease:
    """What this replica holds of one subject's window."""

    __slots__ = ("ends", "left", "lock", "number", "rest", "share", "spent", "used_up")

    def __init__(self, subject: str, limit: int, now: float) -> None:
        # Windows of different subjects end at different moments, lest all are renewed at once.
        shift = zlib.crc32(subject.encode()) % WINDOW_SECONDS
        self.number = int((now + shift) // WINDOW_SECONDS)
        self.ends = (self.number + 1) * WINDOW_SECONDS - shift
        self.left = 0
        self.rest = limit
        self.spent = 0
        self.share = max(1, limit // FIRST_SHARE)
        self.used_up = False
        self.lock: anyio.Lock | None = None

    def holds(self, now: float) -> bool:
        """Whether its window is the present one."""
        return self.ends - WINDOW_SECONDS <= now < self.ends


def subject_of(caller: Caller) -> str:
    """Who is counted: the key, the end user of an app, else the address."""
    if caller.kind == "service":
        return f"key:{caller.key_id}"
    if caller.kind == "user":
        return f"user:{caller.claims.get('app_id')}:{caller.user_id}"
    return f"address:{network_of(caller.ip)}"


class RateLimits:
    """Counts requests of this process's callers. ``clock`` gives seconds since the epoch, as all replicas have them."""

    def __init__(
        self,
        control: Database,
        settings: Settings,
        secret: str,
        *,
        clock: Callable[[], float] = time.time,
        remembered: int = REMEMBERED,
    ) -> None:
        self._control = control
        self._clock = clock
        self._remembered = remembered
        self._limits: dict[Kind, int] = {
            "service": settings.rate_limit_key,
            "user": settings.rate_limit_user,
            "anonymous": settings.rate_limit_address,
        }
        self._leases: dict[Kind, OrderedDict[str, _Lease]] = {kind: OrderedDict() for kind in self._limits}
        # Addresses are kept under a keyed hash, as the limits on sign-in keep them.
        self._secret = derive(secret, "rate-limits").encode()
        self._bypass = settings.rate_limit_bypass.encode()
        self._failed_at = -math.inf

    async def admit(self, caller: Caller, scope: MutableMapping[str, Any]) -> None:
        """Count an ASGI request; raises when its caller has asked too often.

        Where the caller stands is left in the request's state, for the headers of the answer.
        """
        if self._bypass and self._bypassed(scope["headers"]):
            return
        standing = await self.count(caller)
        if standing is None:
            return
        scope["state"]["rate_limit"] = standing.headers()
        if not standing.admitted:
            raise AppError(
                "QUOTA_RATE_LIMIT",
                f"More than {standing.limit} requests in a minute.",
                details={"limit": standing.limit, "retry_after": standing.reset},
                retry_after=standing.reset,
            )

    def _bypassed(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        return any(name == BYPASS_HEADER and hmac.compare_digest(value, self._bypass) for name, value in headers)

    async def count(self, caller: Caller) -> Standing | None:
        """Where the caller stands after one more request; None when nothing limits them."""
        limit = self._limits[caller.kind]
        if not limit:
            return None
        subject, now = subject_of(caller), self._clock()
        leases = self._leases[caller.kind]
        lease = leases.get(subject)
        if lease is None or not lease.holds(now):
            lease = leases[subject] = _Lease(subject, limit, now)
            leases.move_to_end(subject)
            await self._make_room(leases, now)
        else:
            leases.move_to_end(subject)
        while not lease.left and not lease.used_up:
            await self._refill(subject, lease, limit)
        admitted = lease.left > 0
        if admitted:
            lease.left -= 1
            lease.spent += 1
        return Standing(limit, lease.left + lease.rest, max(1, math.ceil(lease.ends - now)), admitted)

    async def take_one(self, subject: str, limit: int) -> Standing:
        """One call of a count that replicas share call by call: for what costs far more than the counting."""
        lease = _Lease(subject, limit, now := self._clock())
        granted, taken = await self._take(subject, lease, 1, limit)
        return Standing(limit, max(0, limit - taken), max(1, math.ceil(lease.ends - now)), granted > 0)

    async def _refill(self, subject: str, lease: _Lease, limit: int) -> None:
        """Take one share, for all requests of the subject that wait for it."""
        if lease.lock is None:
            lease.lock = anyio.Lock()
        async with lease.lock:
            if lease.left or lease.used_up:
                return
            share = lease.share
            lease.share = min(2 * share, max(1, limit // LARGEST_SHARE))
            granted, taken = await self._take(subject, lease, share, limit)
            lease.left += granted
            lease.rest = max(0, limit - taken)
            lease.used_up = not granted

    async def _take(self, subject: str, lease: _Lease, share: int, limit: int) -> tuple[int, int]:
        """What was granted, and what all have taken then."""
        now = self._clock()
        if not 0 <= now - self._failed_at < RETRY_SECONDS:
            try:
                with anyio.fail_after(TAKE_SECONDS):
                    row = await self._control.fetchrow(
                        _TAKE, self._key(subject), lease.number, share, limit, float(lease.ends)
                    )
                return row["granted"], row["taken"]
            except (AppError, TimeoutError) as error:
                self._failed_at = now
                log.warning("counting requests alone for %d s: %s", RETRY_SECONDS, error)
        # The database is away: this replica goes on by itself, still within the limit.
        granted = max(0, min(share, limit - lease.spent))
        return granted, lease.spent + granted

    async def _make_room(self, leases: OrderedDict[str, _Lease], now: float) -> None:
        """Forget the longest unused subjects; what they had left of a share goes back."""
        while len(leases) > self._remembered:
            subject, lease = leases.popitem(last=False)
            left, lease.left = lease.left, 0
            if not left or not lease.holds(now) or 0 <= now - self._failed_at < RETRY_SECONDS:
                continue
            try:
                with anyio.fail_after(TAKE_SECONDS):
                    await self._control.execute(_GIVE_BACK, self._key(subject), lease.number, left)
            except (AppError, TimeoutError):
                self._failed_at = now

    def _key(self, subject: str) -> bytes:
        return hmac.digest(self._secret, subject.encode(), "sha256")[:16]

    @property
    def remembered(self) -> int:
        """Subjects in memory."""
        return sum(map(len, self._leases.values()))

    async def sweep(self) -> int:
        """Delete windows that ended a minute ago; how many there were."""
        found = 0
        while True:
            done = await self._control.execute(_SWEEP, self._clock() - SWEEP_SECONDS, SWEEP_BATCH)
            found += (count := int(done.rpartition(" ")[2]))
            if count < SWEEP_BATCH:
                return found

    async def keep_swept(self) -> None:
        """Sweep once a minute until cancelled."""
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            await self.sweep()
