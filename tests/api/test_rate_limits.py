"""Limits on requests: one count for all replicas, per key, end user and address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from brolly.app import open_deps
from brolly.core.caller import Caller, anonymous
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.pg.pool import Database
from brolly.rate_limit import RETRY_SECONDS, WINDOW_SECONDS, RateLimits, Standing
from brolly.registry import App
from brolly.web import build_web
from tests.api.test_auth_sessions import log_in, sign_up
from tests.conftest import hold_open, http_client, make_owner

NAMES = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """The control database, and how many statements went to it."""

    def __init__(self, control: Database) -> None:
        self.control, self.statements = control, 0

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        self.statements += 1
        return await self.control.fetchrow(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        self.statements += 1
        return await self.control.execute(sql, *args)


def limited(deps: Deps, clock: Clock, control: Any = None, remembered: int = 100, **limits: Any) -> Deps:
    """The same server with these limits and that clock: a replica with a memory of its own."""
    named = {f"rate_limit_{subject}": value for subject, value in limits.items()}
    settings = replace(deps.settings, **named)
    rates = RateLimits(control or deps.control, settings, deps.secret, clock=clock, remembered=remembered)
    return replace(deps, settings=settings, rates=rates)


def key_caller() -> Caller:
    """A caller whom nobody has counted yet."""
    return Caller("service", account_id=str(uuid4()), key_id=str(uuid4()))


async def ask(deps: Deps, caller: Caller, times: int) -> list[Standing]:
    """Where the caller stands after each of so many requests, one after the other."""
    found = [await deps.rates.count(caller) for _ in range(times)]
    return [standing for standing in found if standing is not None]


def admitted(standings: Iterable[Standing]) -> int:
    return sum(standing.admitted for standing in standings)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
async def replica(deps: Deps, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deps]:
    """A second server over the same control database."""
    server = deps.databases.server
    dsn = f"postgresql://{quote(server.user)}:{quote(server.password, safe='')}@/{server.database}"
    home: Path = tmp_path_factory.mktemp("replica")
    settings = load_settings(
        {}, home=home, database_url=f"{dsn}?host={quote(server.host, safe='')}&port={server.port}", secret=deps.secret
    )
    value, close = await hold_open(open_deps(settings))
    yield value
    await close()


async def test_two_replicas_share_one_limit(deps: Deps, replica: Deps, clock: Clock) -> None:
    one, two, caller = limited(deps, clock, key=40), limited(replica, clock, key=40), key_caller()
    assert one.control is not two.control
    both = [standing for _ in range(40) for each in (one, two) for standing in await ask(each, caller, 1)]
    assert admitted(both) == 40
    assert not any(standing.admitted for standing in both[-2:])
    taken = await deps.control.fetchval(
        "select taken from brolly.rate_windows where subject = $1", one.rates._key(f"key:{caller.key_id}")
    )
    assert taken == 40


async def test_requests_at_the_same_moment_share_it_too(deps: Deps, replica: Deps, clock: Clock) -> None:
    replicas, caller = (limited(deps, clock, key=50), limited(replica, clock, key=50)), key_caller()
    found = await asyncio.gather(*(each.rates.count(caller) for _ in range(60) for each in replicas))
    assert admitted(standing for standing in found if standing is not None) == 50


async def test_a_busy_subject_costs_a_handful_of_statements(deps: Deps, clock: Clock) -> None:
    control = Counting(deps.control)
    server = limited(deps, clock, control, key=1000)
    assert admitted(await ask(server, key_caller(), 1000)) == 1000
    assert control.statements <= 8
    refused = key_caller()
    await ask(server, refused, 1001)
    before = control.statements
    assert admitted(await ask(server, refused, 500)) == 0
    assert control.statements == before, "who has nothing left costs nothing"


async def test_the_window_ends_and_another_begins(deps: Deps, replica: Deps, clock: Clock) -> None:
    one, two, caller = limited(deps, clock, key=10), limited(replica, clock, key=10), key_caller()
    first = await ask(one, caller, 11)
    assert [standing.remaining for standing in first] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert [standing.admitted for standing in first[-2:]] == [True, False]
    reset = first[-1].reset
    assert 1 <= reset <= WINDOW_SECONDS
    clock.now += reset - 1
    assert admitted([*await ask(one, caller, 1), *await ask(two, caller, 1)]) == 0
    clock.now += 1
    fresh = await ask(one, caller, 1)
    assert (fresh[0].admitted, fresh[0].remaining, fresh[0].reset) == (True, 9, WINDOW_SECONDS)
    clock.now -= 3600
    assert admitted(await ask(one, caller, 1)) == 1, "a clock that was set back starts its window anew"


async def test_each_subject_has_a_limit_of_its_own(deps: Deps, clock: Clock) -> None:
    server = limited(deps, clock, key=2, user=3, address=4)
    same_id = str(uuid4())
    for most, callers in (
        (2, [key_caller(), key_caller()]),
        (3, [Caller("user", user_id=same_id, claims={"app_id": app_id}) for app_id in ("app_1", "app_2")]),
        (4, [anonymous(ip="192.0.2.7"), anonymous(ip="192.0.2.8"), anonymous(ip="2001:db8:4::1"), anonymous()]),
    ):
        for caller in callers:
            assert admitted(await ask(server, caller, 6)) == most, caller
    # One subscriber has a whole network of IPv6 addresses; a mapped address is the one that it maps.
    for same in ("2001:db8:4::2", "::ffff:192.0.2.7"):
        assert admitted(await ask(server, anonymous(ip=same), 1)) == 0, same


async def test_an_answer_says_where_its_caller_stands(deps: Deps, app: App, owner: Caller, clock: Clock) -> None:
    server = limited(deps, clock, key=4)
    _, key = await make_owner(deps, account=owner.account_id)
    async with http_client(server, key) as client:
        answers = [await client.get(f"/v1/{app.id}/{path}") for path in ("config", "no_table")]
        answers += [await client.get("/apps"), await client.post("/mcp?other=1", json={})]
        assert [a.status_code for a in answers] == [200, 404, 200, 400]
        assert [[a.headers[name] for name in NAMES[:2]] for a in answers] == [["4", str(n)] for n in (3, 2, 1, 0)]
        assert len({a.headers[NAMES[2]] for a in answers}) == 1
        await app_allows(deps, app)
        refused = await client.get(f"/v1/{app.id}/config", headers={"Origin": "http://localhost:3000"})
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["details"]["limit"]) == ("QUOTA_RATE_LIMIT", 4)
    assert "Retry-After" in error["remediation"]
    assert refused.headers["retry-after"] == refused.headers[NAMES[2]] == str(error["details"]["retry_after"])
    assert refused.headers[NAMES[1]] == "0"
    # A page can read it.
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3000"
    exposed = refused.headers["access-control-expose-headers"].lower()
    assert all(name in exposed for name in (*NAMES, "retry-after"))
    assert deps.rates is not server.rates
    async with http_client(deps, key) as client:
        assert (await client.get("/apps")).headers[NAMES[0]] == "1000000", "what others count is no matter"


async def app_allows(deps: Deps, app: App) -> None:
    assert (
        "http://localhost:3000" in (await deps.registry.get(Caller("service", app.account_id), app.id)).allowed_origins
    )


async def test_mcp_and_management_share_the_keys_limit(deps: Deps, clock: Clock) -> None:
    _, key = await make_owner(deps)
    async with http_client(limited(deps, clock, key=1), key) as client:
        assert (await client.get("/api-keys")).status_code == 200
        refused = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "QUOTA_RATE_LIMIT")
    assert int(refused.headers["retry-after"]) >= 1


async def test_an_end_user_is_counted_apart_from_the_address(deps: Deps, app: App, clock: Clock) -> None:
    server = limited(deps, clock, user=2, address=5)
    async with at(server, "198.51.100.1") as client:
        await sign_up(client, app)
        token = (await log_in(client, app))["access_token"]
        signed_in = {"Authorization": f"Bearer {token}"}
        answers = [await client.get(f"/auth/{app.id}/me", headers=signed_in) for _ in range(3)]
        assert [(a.status_code, a.headers[NAMES[0]]) for a in answers] == [(200, "2"), (200, "2"), (429, "2")]
        assert (await client.get("/v1/regions")).headers[NAMES[1]] == "2"


def at(deps: Deps, ip: str) -> httpx.AsyncClient:
    """A client without credentials, at that address."""
    transport = httpx.ASGITransport(build_web(deps), raise_app_exceptions=False, client=(ip, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://brolly.test")


async def test_refused_credentials_count_for_the_address(deps: Deps, app: App, clock: Clock) -> None:
    wrong = {"Authorization": "Bearer bb_sk_" + "0" * 40}
    async with at(limited(deps, clock, address=4), "198.51.100.2") as client:
        answers = [await client.get(f"/v1/{app.id}/notes", headers=wrong) for _ in range(2)]
        answers += [await client.post("/mcp", json={}, headers=wrong) for _ in range(3)]
        assert [a.status_code for a in answers] == [401, 401, 401, 401, 429]
        assert "x-ratelimit-remaining" in answers[0].headers
        assert (await client.get("/health")).status_code == 200, "whether it lives may always be asked"


async def test_nothing_is_said_where_nothing_is_limited_or_the_token_lifts_it(deps: Deps, clock: Clock) -> None:
    control, token = Counting(deps.control), "a token of the test run"
    server = limited(deps, clock, control, address=1, bypass=token, key=0)
    _, key = await make_owner(deps)
    async with http_client(server, key) as client:
        assert not {*NAMES} & {*(await client.get("/apps")).headers}
    async with at(server, "198.51.100.3") as client:
        for sent, statuses in ((token, [200] * 3), ("another token", [200, 429]), (None, [429])):
            headers = {} if sent is None else {"X-Rate-Limit-Bypass": sent}
            assert [(await client.get("/v1/regions", headers=headers)).status_code for _ in statuses] == statuses
    async with at(limited(deps, clock, address=1), "198.51.100.4") as client:
        answers = [await client.get("/v1/regions", headers={"X-Rate-Limit-Bypass": ""}) for _ in range(2)]
        assert [a.status_code for a in answers] == [200, 429], "no token is set, so none lifts the limit"


async def test_memory_is_bounded_and_what_is_forgotten_gives_back(deps: Deps, clock: Clock) -> None:
    server = limited(deps, clock, remembered=3, key=100, address=100)
    key, first = key_caller(), anonymous(ip=f"2001:db8:0:{uuid4().hex[:4]}::")
    await ask(server, key, 3)
    await ask(server, first, 3)
    for n in range(20):
        await ask(server, anonymous(ip=f"203.0.113.{n}"), 1)
    assert server.rates.remembered == 3 + 1, "strangers do not push out the keys"
    # The share that was not spent is there again: the next count goes on after the three.
    assert [standing.remaining for standing in await ask(server, first, 1)] == [96]


async def test_without_the_database_a_replica_counts_alone(deps: Deps, clock: Clock) -> None:
    server = replace(deps.databases.server, host="/nowhere")
    away = Database(server, size=1)
    caller, control = key_caller(), Counting(away)
    alone = limited(deps, clock, control, key=20)
    assert admitted(await ask(alone, caller, 30)) == 20
    assert control.statements == 1, "it is not asked again at once"
    control.control = deps.control
    clock.now += RETRY_SECONDS
    other = key_caller()
    assert admitted(await ask(alone, other, 5)) == 5
    assert admitted(await ask(limited(deps, clock, key=20), other, 20)) < 20, "they share the count again"


async def test_windows_that_are_over_are_swept(deps: Deps, clock: Clock) -> None:
    server, caller = limited(deps, clock, key=10), key_caller()
    subject = server.rates._key(f"key:{caller.key_id}")
    count = "select count(*) from brolly.rate_windows where subject = $1"
    await ask(server, caller, 1)
    clock.now += WINDOW_SECONDS
    await ask(server, caller, 1)
    await server.rates.sweep()
    assert await deps.control.fetchval(count, subject) == 2, "the window before may still be another replica's"
    clock.now += WINDOW_SECONDS
    assert await server.rates.sweep() >= 1
    assert await deps.control.fetchval(count, subject) == 1


async def test_a_test_run_passes_the_defaults(deps: Deps, clock: Clock) -> None:
    settings = load_settings({}, home=deps.settings.home)
    rates = RateLimits(deps.control, settings, deps.secret, clock=clock)
    server = replace(deps, rates=rates)
    for caller in (key_caller(), anonymous(ip="203.0.113.99")):
        assert admitted(await ask(server, caller, 450)) == 450
