"""The socket itself: who is let in, what it understands, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import jwt
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from brolly.apps import provision
from brolly.auth.signing import sign
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.keys.service import caller_of_key
from brolly.realtime import broadcast, hub, limits, messages, socket
from brolly.registry import App
from tests.api.test_auth_sessions import sign_up
from tests.conftest import McpCall, http_client, make_owner, mcp_session
from tests.realtime.sockets import Client, admitted, client, serving


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(deps: Deps) -> AsyncIterator[str]:
    async with serving(replace(deps, settings=replace(deps.settings, realtime_address_sockets=50))) as address:
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ground(deps: Deps) -> AsyncIterator[tuple[App, str]]:
    """An app, and a service key for it."""
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    yield app, key
    await provision.delete(deps, app)


class People:
    """The module's app, a key of its owner, and a user."""

    def __init__(self, deps: Deps, app: App, key: str, user: str) -> None:
        self.deps, self.app, self.key, self.user = deps, app, key, user

    async def token(self, seconds: int = 900, **claims: Any) -> str:
        return await sign(self.deps, self.app, {"sub": self.user, "app_id": self.app.id, **claims}, seconds)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def people(deps: Deps, ground: tuple[App, str]) -> People:
    app, key = ground
    async with http_client(deps) as http:
        user = await sign_up(http, app)
    return People(deps, app, key, user["id"])


async def test_a_service_key_a_user_and_nobody_are_let_in(url: str, people: People) -> None:
    token = await people.token()
    for query, header, role, user in (
        (people.key, None, "butterbase_service", None),
        (None, people.key, "butterbase_service", None),
        (token, None, "butterbase_user", people.user),
        (None, token, "butterbase_user", people.user),
        (None, None, "butterbase_anon", None),
    ):
        async with client(url, people.app.id, query, header=header) as one:
            hello = await one.next("connected")
            assert (hello["app_id"], hello["role"], hello["user_id"]) == (people.app.id, role, user)
            assert one.heard == []


async def refused(url: str, app_id: str, token: str | None, **options: Any) -> tuple[str, int]:
    async with client(url, app_id, token, **options) as one:
        code, _ = await one.closed()
        assert [message["type"] for message in one.heard] == ["error"]
        assert one.heard[0]["remediation"]
        return one.heard[0]["code"], code


async def test_what_does_not_prove_who_one_is_is_refused_after_the_upgrade(
    deps: Deps, url: str, people: People, app: App
) -> None:
    token = await people.token()
    elsewhere = await sign(deps, app, {"sub": people.user, "app_id": app.id}, 900)
    forged = jwt.encode(jwt.decode(token, options={"verify_signature": False}), "x" * 32, "HS256")
    _, foreign_key = await make_owner(deps)
    for given, code in (
        (forged, "AUTH_INVALID_END_USER_JWT"),
        (token[:-8] + "AAAAAAAA", "AUTH_INVALID_END_USER_JWT"),
        (await people.token(-5), "AUTH_END_USER_JWT_EXPIRED"),
        (elsewhere, "AUTH_INVALID_END_USER_JWT"),
        ("nonsense", "AUTH_INVALID_TOKEN"),
        ("bb_sk_" + "0" * 40, "AUTH_INVALID_API_KEY"),
        (foreign_key, "RESOURCE_NOT_FOUND"),
    ):
        assert await refused(url, people.app.id, given) == (code, 1008), given
    assert await refused(url, "app_000000000000", None) == ("RESOURCE_NOT_FOUND", 1008)


async def test_nobody_is_refused_where_the_app_wants_them_signed_in_and_all_while_it_is_paused(
    deps: Deps, url: str, owner: Caller, app: App, mcp: McpCall
) -> None:
    _, key = await make_owner(deps, account=owner.account_id)
    async with admitted(url, app.id) as nobody, admitted(url, app.id, key) as service:
        await mcp("manage_app", action="update_access_mode", app_id=app.id, access_mode="authenticated")
        # Who is in already is put out as well.
        assert (await nobody.closed())[0] == 1008
        assert await refused(url, app.id, None) == ("AUTH_REQUIRED", 1008)
        await mcp("manage_app", action="pause", app_id=app.id, paused=True)
        assert (await service.closed())[0] == 1013
    assert await refused(url, app.id, key) == ("APP_PAUSED", 1013)
    await mcp("manage_app", action="pause", app_id=app.id, paused=False)
    async with admitted(url, app.id, key) as service:
        await provision.delete(deps, app)
        code, _ = await service.closed()
        assert code == 1008


async def test_a_page_of_another_origin_is_refused_unless_the_app_allows_it(url: str, people: People) -> None:
    foreign = {"Origin": "https://evil.example"}
    assert await refused(url, people.app.id, None, headers=foreign) == ("AUTH_FORBIDDEN", 1008)
    async with admitted(url, people.app.id, headers={"Origin": url.replace("ws:", "http:")}):
        pass


async def test_messages_sent_before_connected_are_kept(url: str, people: People) -> None:
    async with client(url, people.app.id, people.key) as one:
        for number in range(20):
            await one.send("heartbeat", ref=number)
        assert (await one.next("connected"))["app_id"] == people.app.id
        assert [(await one.next("heartbeat"))["ref"] for _ in range(20)] == list(range(20))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Invalid JSON"),
        ("1e999", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ('{"type": "subscribe", "table": "\\ud800"}', "Invalid JSON"),
        ("{}", "Unknown message type: None"),
        ('{"type": "sing"}', "Unknown message type: sing"),
        ('{"type": ["subscribe"]}', "Unknown message type: ['subscribe']"),
        ('{"type": "subscribe"}', 'Missing "table" field'),
        ('{"type": "subscribe", "table": ""}', 'Missing "table" field'),
        ('{"type": "event"}', 'Missing "event" field'),
        ('{"type": "subscribe", "table": "posts", "filters": {}}', 'Unknown field "filters" in subscribe'),
        ('{"type": "subscribe", "table": "posts", "events": ["TRUNCATE"]}', 'Bad "events" field'),
        ('{"type": "subscribe", "table": "nowhere"}', "There is no table 'nowhere'."),
        ('{"type": "subscribe", "table": "pg_class"}', "There is no table 'pg_class'."),
        ('{"type": "join", "channel": "a*"}', 'Bad "channel" field'),
        ('{"type": "broadcast", "channel": "room"}', "Join the channel 'room' before sending to it."),
        ('{"type": "presence_track", "channel": "room"}', "Join the channel 'room' before being present in it."),
        ('{"type": "presence_track", "metadata": {"m": "' + "m" * 5000 + '"}}', "Metadata has at most"),
        ('{"type": "event", "event": "ping"}', "No handler for event: ping"),
        ('{"type": "refresh", "token": "nonsense"}', "The bearer token is neither"),
    ],
)
async def test_what_cannot_be_done_is_answered_with_an_error_and_the_socket_lives(
    url: str, people: People, text: str, said: str
) -> None:
    async with admitted(url, people.app.id, await people.token()) as one:
        await one.connection.send(text)
        error = await one.next("error")
        assert error["message"].startswith(said)
        assert error["code"]
        assert error["remediation"]
        await one.ask("heartbeat", "heartbeat")


async def test_binary_and_huge_frames_end_the_socket(url: str, people: People) -> None:
    async with admitted(url, people.app.id, people.key) as one:
        await one.connection.send(b"\x00\x01")
        assert (await one.closed())[0] == 1003
        assert one.heard[0]["message"].startswith("Binary messages")
    async with admitted(url, people.app.id, people.key) as one:
        await one.connection.send(json.dumps({"type": "event", "event": "e", "payload": "x" * 1_000_000}))
        assert (await one.closed())[0] == 1009


async def test_a_flood_is_slowed_down_and_costs_the_others_nothing(
    url: str, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MESSAGES_BURST", 20)
    async with admitted(url, people.app.id, people.key) as loud, admitted(url, people.app.id, people.key) as other:
        for _ in range(40):
            await loud.send("subscribe", table="nowhere")
        await other.ask("heartbeat", "heartbeat")
        loud.heard.clear()
        answered = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                while True:
                    await loud.next("error")
                    answered += 1
        assert answered < 40
        for _ in range(40 - answered):
            await loud.next("error")


async def test_an_address_has_so_many_sockets_and_a_socket_so_many_subscriptions(
    deps: Deps, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(deps, settings=replace(deps.settings, realtime_address_sockets=2))
    async with serving(few) as url, admitted(url, people.app.id), admitted(url, people.app.id) as second:
        assert await refused(url, people.app.id, None) == ("REALTIME_CONNECTION_LIMIT", 1013)
        await second.connection.close()
        async with admitted(url, people.app.id) as third:
            monkeypatch.setattr(broadcast, "MOST_CHANNELS", 0)
            monkeypatch.setattr(messages, "MOST_SUBSCRIPTIONS", 0)
            assert (await third.ask("join", "joined", channel="room"))["code"] == "REALTIME_CONNECTION_LIMIT"
            assert (await third.ask("subscribe", "subscribed", table="t"))["code"] == "REALTIME_CONNECTION_LIMIT"


async def test_a_heartbeat_comes_by_itself(url: str, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "HEARTBEAT_SECONDS", 0.1)
    async with admitted(url, people.app.id) as one:
        beats = [await one.next("heartbeat") for _ in range(2)]
        assert beats[0]["timestamp"] < beats[1]["timestamp"]


async def test_a_token_that_expires_ends_the_socket_unless_it_is_renewed(url: str, people: People) -> None:
    async with (
        admitted(url, people.app.id, await people.token(3)) as renewed,
        admitted(url, people.app.id, await people.token(3)) as forgotten,
    ):
        warning = await renewed.next("warning")
        assert warning["code"] == "TOKEN_EXPIRES"
        refused = await renewed.ask("refresh", "refreshed", token=people.key)
        assert refused["code"] == "AUTH_FORBIDDEN"
        again = await renewed.ask("refresh", "refreshed", token=await people.token(900))
        assert again["expires_at"] > warning["expires_at"]
        assert (await forgotten.closed())[0] == 1008
        assert [m["type"] for m in forgotten.heard] == ["warning", "error"]
        await renewed.ask("heartbeat", "heartbeat")


async def test_who_is_disabled_and_a_key_that_is_revoked_are_put_out(
    deps: Deps, url: str, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "RECHECK_SECONDS", 0.0)
    owner = await caller_of_key(deps, people.key)
    assert owner is not None
    _, key = await make_owner(deps, account=owner.account_id)
    async with http_client(deps) as http:
        other = await sign_up(http, people.app, email="bob@example.com")
    token = await sign(deps, people.app, {"sub": other["id"], "app_id": people.app.id}, 900)
    async with (
        admitted(url, people.app.id, token) as user,
        admitted(url, people.app.id, key) as service,
        admitted(url, people.app.id, await people.token()) as welcome,
        mcp_session(deps, owner) as call,
    ):
        await call(
            "manage_auth_users", action="update", app_id=people.app.id, user_id=other["id"], set={"disabled": True}
        )
        revoked = await caller_of_key(deps, key)
        assert revoked is not None
        await call("manage_api_keys", action="revoke", key_id=revoked.key_id, confirm=True)
        assert (await user.closed())[0] == 1008
        assert user.heard[-1]["code"] == "ACCOUNT_DISABLED"
        assert (await service.closed())[0] == 1008
        assert service.heard[-1]["code"] == "AUTH_INVALID_API_KEY"
        await welcome.ask("heartbeat", "heartbeat")


async def test_a_server_that_ends_says_so(deps: Deps, people: People) -> None:
    async with serving(deps) as url:
        one = await connect_to(url, people.app.id)
    assert (await one.closed()) == (1001, "the server is ending; connect again")


async def connect_to(url: str, app_id: str) -> Client:
    connection = await connect(f"{url}/v1/{app_id}/realtime", proxy=None, compression=None)
    one = Client(connection)
    await one.next("connected")
    return one


async def test_a_peer_that_is_gone_without_a_word_is_noticed(deps: Deps, people: People) -> None:
    async with serving(deps, ws_ping_interval=0.1, ws_ping_timeout=0.1) as url:
        # Without a library on this side nobody answers pings.
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /v1/{people.app.id}/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            said = await reader.read(-1)
        assert said.startswith(b"HTTP/1.1 101")
        writer.close()


async def test_a_token_in_the_address_reaches_no_log(
    url: str, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "uvicorn.error")
    async with admitted(url, people.app.id, people.key):
        pass
    assert "accepted" in caplog.text
    assert people.key not in caplog.text
