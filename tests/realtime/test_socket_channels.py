"""Presence, channels and events, also between two servers over one Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import pytest_asyncio

from brolly.app import open_deps
from brolly.apps import provision
from brolly.auth.signing import sign
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.realtime import broadcast, hub, presence
from brolly.registry import App
from tests.conftest import McpCall, hold_open, make_owner, mcp_session
from tests.realtime.sockets import Client, admitted, serving

ANN, BOB = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"


class Pair:
    """Two servers of one installation, each with what it holds in memory, and an app."""

    def __init__(self, both: list[Deps], urls: list[str], app: App, key: str, mcp: McpCall) -> None:
        self.both, self.urls, self.app, self.key, self.mcp = both, urls, app, key, mcp

    async def token(self, user: str) -> str:
        return await sign(self.both[0], self.app, {"sub": user, "app_id": self.app.id}, 900)

    def socket(self, server: int, token: str | None) -> Any:
        return admitted(self.urls[server], self.app.id, token)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(deps: Deps, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    server = deps.databases.server
    where = f"host={quote(server.host, safe='')}&port={server.port}"
    dsn = f"postgresql://{quote(server.user)}:{quote(server.password, safe='')}@/{server.database}?{where}"
    home: Path = tmp_path_factory.mktemp("replica")
    rates = {f"rate_limit_{subject}": 1_000_000 for subject in ("key", "user", "address")}
    settings = load_settings(
        {}, home=home, database_url=dsn, secret=deps.secret, public_url="http://brolly.test", **rates
    )
    other, close = await hold_open(open_deps(settings))
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    call, end = await hold_open(mcp_session(deps, owner))
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serving(one)) for one in (deps, other)]
        yield Pair([deps, other], urls, app, key, call)
    await end()
    await provision.delete(deps, app)
    await close()


async def join(one: Client, channel: str) -> dict[str, Any]:
    return await one.ask("join", "joined", channel=channel)


async def test_presence_is_told_to_all_who_are_present_on_both_servers(pair: Pair) -> None:
    async with (
        pair.socket(0, await pair.token(ANN)) as ann,
        pair.socket(1, await pair.token(BOB)) as bob,
        pair.socket(0, None) as watcher,
    ):
        assert (await ann.ask("presence_track", "presence_state", metadata={"mood": "ä"}))["clients"] == []
        (seen,) = (await bob.ask("presence_track", "presence_state"))["clients"]
        assert seen == {"client_id": seen["client_id"], "user_id": ANN, "metadata": {"mood": "ä"}}
        joined = await ann.next("presence_join")
        assert (joined["user_id"], joined["metadata"]) == (BOB, {})
        await bob.send("presence_update", metadata={"at": "desk"})
        updated = await ann.next("presence_update")
        assert (updated["client_id"], updated["metadata"]) == (joined["client_id"], {"at": "desk"})
        await bob.connection.close()
        left = await ann.next("presence_leave")
        assert (left["client_id"], left["user_id"]) == (joined["client_id"], BOB)
        await ann.ask("presence_untrack", "presence_untracked")
        # Who does not track hears nothing.
        await watcher.ask("heartbeat", "heartbeat")
        assert watcher.heard == []
    assert await pair.both[0].control.fetchval("select count(*) from brolly.realtime_presence") == 0


async def test_those_of_a_server_that_was_killed_leave_when_its_lease_has_run_out(pair: Pair) -> None:
    deps = pair.both[0]
    insert = "insert into brolly.realtime_presence values ($1, '', 'ghost', 'dead server', $2, '{}')"
    await deps.control.execute(insert, pair.app.id, BOB)
    seen = "insert into brolly.realtime_servers values ('dead server', now() - interval '1 second' * $1)"
    await deps.control.execute(seen, presence.LEASE_SECONDS - 1)
    async with pair.socket(0, pair.key) as one:
        clients = (await one.ask("presence_track", "presence_state"))["clients"]
        assert [c["client_id"] for c in clients] == ["ghost"]
        left = await one.next("presence_leave")
        assert (left["client_id"], left["user_id"]) == ("ghost", BOB)


async def test_presence_survives_what_postgres_forgets(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    deps = pair.both[0]
    async with pair.socket(0, await pair.token(ANN)) as ann, pair.socket(1, await pair.token(BOB)) as bob:
        await ann.ask("presence_track", "presence_state", metadata={"n": 1})
        # As after a crash: what is not logged is empty.
        await deps.control.execute("truncate brolly.realtime_servers, brolly.realtime_presence")
        serving_hub = hub.hub_of(deps)
        assert serving_hub is not None
        await serving_hub.presence.beat()
        (seen,) = (await bob.ask("presence_track", "presence_state"))["clients"]
        assert (seen["user_id"], seen["metadata"]) == (ANN, {"n": 1})


async def test_a_broadcast_reaches_the_others_in_the_channel_on_both_servers_once(pair: Pair) -> None:
    async with (
        pair.socket(0, await pair.token(ANN)) as ann,
        pair.socket(0, await pair.token(BOB)) as near,
        pair.socket(1, await pair.token(BOB)) as far,
        pair.socket(1, await pair.token(BOB)) as outside,
    ):
        for one in (ann, near, far):
            assert await join(one, "room:1") == {"type": "joined", "channel": "room:1", "send": True, "ref": "asked"}
        long = "é" * 12_000
        for number, payload in enumerate(({"n": 1}, {"n": 1}, long)):
            answer = await ann.ask(
                "broadcast", "broadcast_ack", channel="room:1", event="say", payload=payload, ack=True
            )
            assert answer["channel"] == "room:1"
            for one in (near, far):
                heard = await one.next("broadcast")
                assert (heard["event"], heard["payload"], heard["user_id"]) == ("say", payload, ANN), number
        assert (await ann.ask("leave", "left", channel="room:1"))["type"] == "left"
        await near.send("broadcast", channel="room:1", payload="last")
        assert (await far.next("broadcast"))["payload"] == "last"
        too_long = await near.ask("broadcast", "broadcast_ack", channel="room:1", payload="x" * 70_000, ack=True)
        assert too_long["code"] == "REQUEST_TOO_LARGE"
        for one in (ann, near, far, outside):
            await one.ask("heartbeat", "heartbeat")
            assert [m for m in one.heard if m["type"] == "broadcast"] == []


async def test_a_change_reaches_the_clients_of_both_servers_once_and_they_may_change_servers(pair: Pair) -> None:
    schema = {
        "tables": {"notes": {"columns": {"id": {"type": "bigserial", "primaryKey": True}, "body": {"type": "text"}}}}
    }
    await pair.mcp("manage_schema", action="apply", app_id=pair.app.id, schema=schema)
    await pair.mcp("manage_realtime", action="configure", app_id=pair.app.id, tables=["notes"])
    async with pair.socket(0, pair.key) as one, pair.socket(1, pair.key) as two:
        for client in (one, two):
            await client.ask("subscribe", "subscribed", table="notes")
        for number in range(1, 21):
            await pair.mcp("insert_row", app_id=pair.app.id, table="notes", data={"body": "x"})
            if number == 10:
                since = (await two.changes(10))[-1]["id"]
                async with pair.socket(0, pair.key) as moved:
                    await moved.ask("subscribe", "subscribed", table="notes", since=since)
                    await pair.mcp("insert_row", app_id=pair.app.id, table="notes", data={"body": "x"})
                    assert [c["record"]["id"] for c in await moved.changes(1)] == ["11"]
                    await moved.silent()
        expected = [str(number) for number in range(1, 22)]
        assert [c["record"]["id"] for c in await one.changes(21)] == expected
        assert [c["record"]["id"] for c in await two.changes(11)] == expected[10:]
        for client in (one, two):
            await client.silent()


async def test_an_event_runs_the_function_that_has_it_as_the_caller(pair: Pair) -> None:
    code = """export async function handler(request: Request, ctx: any) {
      const { event, payload } = await request.json();
      if (payload.fail) throw new Error("as asked");
      return Response.json({ event, twice: payload.n * 2, user: ctx.user?.id ?? null });
    }"""
    trigger = {"type": "websocket", "config": {"event": "double"}}
    await pair.mcp("deploy_function", app_id=pair.app.id, name="doubler", code=code, trigger=trigger)
    async with pair.socket(0, await pair.token(ANN)) as one:
        answer = await one.ask("event", "event_response", event="double", payload={"n": 21})
        assert answer.get("data") == {"event": "double", "twice": 42, "user": ANN}, answer
        failed = await one.ask("event", "event_response", event="double", payload={"fail": True})
        assert failed["message"].startswith("Event handler execution failed")
        unknown = await one.ask("event", "event_response", event="triple")
        assert unknown["message"] == "No handler for event: triple"
    code = """export async function handler(request: Request, ctx: any) {
      const { rows } = await ctx.db.query("select current_user::text as role, $1::text as who", [ctx.user.id]);
      return Response.json(rows[0]);
    }"""
    roles = {}
    for event, config in {"own": {}, "all": {"run_as": "service"}}.items():
        trigger = {"type": "websocket", "config": {"event": event, "auth": "required", **config}}
        await pair.mcp("deploy_function", app_id=pair.app.id, name=f"on-{event}", code=code, trigger=trigger)
    # The other server, which was told of them.
    async with pair.socket(1, await pair.token(ANN)) as one, pair.socket(1, None) as nobody:
        for event in ("own", "all"):
            answer = await one.ask("event", "event_response", event=event, payload=None)
            assert answer["data"]["who"] == ANN, answer
            roles[event] = answer["data"]["role"].rsplit("_", 1)[-1]
            refused = await nobody.ask("event", "event_response", event=event, payload=None)
            assert refused["code"] == "AUTH_REQUIRED", refused
    assert roles == {"own": "user", "all": "service"}


async def test_nobody_signed_in_may_not_join_unless_the_app_says_so(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair.socket(0, None) as nobody, pair.socket(0, await pair.token(ANN)) as ann:
        assert (await join(nobody, "lobby"))["code"] == "AUTH_FORBIDDEN"
        assert (await join(ann, "lobby"))["send"] is True
        columns = {
            "id": {"type": "bigserial", "primaryKey": True},
            "channel": {"type": "text"},
            "owner": {"type": "uuid"},
            "send": {"type": "boolean", "default": "true"},
        }
        schema = {"tables": {"realtime_channels": {"columns": columns}}}
        await pair.mcp("manage_schema", action="apply", app_id=pair.app.id, schema=schema)
        policy = {"table_name": "realtime_channels", "command": "SELECT"}
        for name, role, expression in (
            ("members", "user", "owner = current_user_id()::uuid"),
            ("public", "anon", "owner is null"),
        ):
            await pair.mcp(
                "manage_rls", action="create_policy", app_id=pair.app.id, **policy, policy_name=name, role=role,
                using_expression=expression,
            )  # fmt: skip
        rows = [
            {"channel": "lobby", "owner": None, "send": False},
            {"channel": "room:*", "owner": ANN},
            {"channel": "100%_*", "owner": BOB},
        ]
        await pair.mcp("seed_database", app_id=pair.app.id, table="realtime_channels", rows=rows)
        assert (await join(nobody, "lobby"))["send"] is False
        refused = await nobody.ask("broadcast", "broadcast_ack", channel="lobby", payload=1, ack=True)
        assert refused["code"] == "AUTH_FORBIDDEN"
        assert (await join(ann, "room:5"))["send"] is True
        assert (await join(ann, "100 of them"))["code"] == "AUTH_FORBIDDEN"
        # The right that Ann had is gone, and she hears of it.
        serving_hub = hub.hub_of(pair.both[0])
        assert serving_hub is not None
        await serving_hub.bus.recheck(serving_hub.rooms[pair.app.id])
        left = await ann.next("left")
        assert left["channel"] == "lobby"
        # A function is asked before the table.
        allowed, sends = await broadcast.may_join(pair.both[0], pair.app, await caller(pair), "room:5")
        assert (allowed, sends) == (True, True)
        body = "select channel = 'by function' and (operation = 'join' or current_user_id() is not null)"
        rule = {
            "arguments": {"channel": "text", "operation": "text"},
            "returns": "boolean",
            "body": body,
            "volatility": "stable",
            "expose": ["anon", "user"],
        }
        schema = {"tables": {}, "functions": {"realtime_authorize": rule}}
        await pair.mcp("manage_schema", action="apply", app_id=pair.app.id, schema=schema)
        assert (await join(ann, "room:6"))["code"] == "AUTH_FORBIDDEN"
        assert (await join(ann, "by function"))["send"] is True
        assert (await join(nobody, "by function"))["send"] is False


async def caller(pair: Pair) -> Any:
    from brolly.core.caller import Caller

    return Caller("user", user_id=ANN, claims={"sub": ANN, "role": "authenticated", "app_id": pair.app.id})
