"""``brolly serve`` as a process: its start, its files, its end, and MCP over its HTTP."""

from __future__ import annotations

import inspect
import json
import signal
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from tests.e2e.processes import (
    COMMAND,
    Machine,
    Process,
    brolly,
    environment,
    free_port,
    owner_key,
    postmaster,
    recorded,
    wait_until,
)

SHUTDOWN_LIMIT = 10.0
WAITED = "timeout graceful shutdown exceeded"
"""What the server logs when requests in flight have had their time."""
assert WAITED in inspect.getsource(uvicorn.Server)
HANDSHAKE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
MCP_HEADERS = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def server(shared: Machine) -> Process:
    return shared.serve(shared.home())


def assert_clean(home: Path) -> None:
    """Nothing is left in the folder that only a running server may have."""
    assert not (home / "server.json").exists()
    assert not (home / "postgres" / "postmaster.pid").exists()
    assert not list((home / "run").glob(".s.PGSQL*"))
    assert postmaster(home) is None
    assert not list(home.glob("*.new"))


def make_app(client: httpx.Client, name: str) -> dict[str, Any]:
    response = client.post("/init", json={"name": name})
    assert response.status_code in (200, 201), response.text
    return response.json()


def test_the_key_in_the_folder_is_the_owners_alone_and_works(server: Process) -> None:
    assert stat.S_IMODE((server.home / "owner.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((server.home / "server.json").stat().st_mode) == 0o600
    with server.client() as client:
        assert client.get("/apps").status_code == 200
    with server.client(key="bb_sk_" + "0" * 40) as client:
        assert client.get("/apps").json()["error"]["code"] == "AUTH_INVALID_API_KEY"


def test_the_record_names_the_process_and_its_address(server: Process) -> None:
    found = recorded(server.home)
    assert found is not None
    assert found["pid"] == server.child.pid
    assert found["url"] == server.url
    assert found["postgres"] == "embedded"


def test_responses_do_not_name_the_server_program(server: Process) -> None:
    assert "server" not in httpx.get(f"{server.url}/health").headers


def test_sigterm_leaves_a_clean_folder_and_a_restart_keeps_the_data(here: Machine) -> None:
    home = here.home()
    first = here.serve(home)
    with first.client() as client:
        made = make_app(client, "kept")
    assert first.end() < SHUTDOWN_LIMIT
    assert first.child.returncode == 0, first.said()
    assert_clean(home)
    assert (home / "owner.key").exists()

    key = owner_key(home)
    second = here.serve(home, port=first.port)
    with second.client() as client:
        again = make_app(client, "kept")
        [own] = client.get("/api-keys").json()["keys"]
        assert client.delete(f"/api-keys/{own['id']}").status_code < 300
    assert again["app_id"] == made["app_id"]
    assert again["created"] is False
    assert second.end(signal.SIGINT) < SHUTDOWN_LIMIT
    assert_clean(home)

    third = here.serve(home, "--read-only", "--no-workers")
    assert not (home / "owner.key").exists(), "a revoked key is not kept, nor made anew"
    with third.client(key=key) as client:
        assert client.get("/apps").status_code == 401


def test_it_starts_again_after_a_kill(here: Machine) -> None:
    home = here.home()
    first = here.serve(home)
    with first.client() as client:
        made = make_app(client, "kept")
    first.end(signal.SIGKILL)
    assert recorded(home) is not None, "a killed server leaves its record behind"
    assert postmaster(home) is not None
    assert brolly(home, "status").returncode == 3, "but nobody believes it"

    second = here.serve(home, port=first.port)
    with second.client() as client:
        assert make_app(client, "kept")["app_id"] == made["app_id"]
    found = recorded(home)
    assert found is not None
    assert found["pid"] == second.child.pid
    second.end()
    assert_clean(home)


def test_a_second_server_of_the_folder_shares_its_postgres(here: Machine) -> None:
    home = here.home()
    first = here.serve(home)
    with first.client() as client:
        made = make_app(client, "shared")
    second = here.serve(home)
    with second.client() as client:
        assert make_app(client, "shared")["app_id"] == made["app_id"]
    found = recorded(home)
    assert found is not None
    assert found["pid"] == first.child.pid, "the first stays the one that the other commands mean"
    second.end()
    with first.client() as client:
        assert client.get("/apps").status_code == 200, "the first still has its Postgres"
    assert recorded(home) == found
    first.end()
    assert_clean(home)


def test_a_port_in_use_is_told_with_who_uses_it(here: Machine, server: Process) -> None:
    same = brolly(server.home, "serve", "--port", str(server.port))
    assert same.returncode == 1
    assert f"runs already, at {server.url} (process {server.child.pid})" in same.stderr
    other = brolly(here.home(), "serve", "--port", str(server.port))
    assert other.returncode == 1
    assert "another Brolly server" in other.stderr
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen(0)
        taken = brolly(here.home(), "serve", "--port", str(stranger.getsockname()[1]))
    assert taken.returncode == 1
    assert "in use by another program" in taken.stderr
    assert "--port" in taken.stderr
    assert "Traceback" not in same.stderr + other.stderr + taken.stderr


def test_a_mistyped_setting_is_refused_by_name(here: Machine) -> None:
    done = brolly(here.home(), "serve", raed_only="1")
    assert done.returncode == 1
    assert "BROLLY_RAED_ONLY" in done.stderr
    assert "BROLLY_READ_ONLY" in done.stderr
    done = brolly(here.home(), "serve", "--raed-only")
    assert done.returncode == 2
    assert "--read-only" in done.stderr


def test_read_only_offers_and_accepts_reads_alone(here: Machine, server: Process) -> None:
    reader = here.start(server.home, "--read-only", "--no-workers").ready()
    with reader.client() as client:
        assert client.get("/apps").status_code == 200
        refused = client.post("/init", json={"name": "no"})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "AUTH_FORBIDDEN"


def test_an_open_stream_does_not_hold_up_the_end(here: Machine) -> None:
    server = here.serve(here.home())
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "subscriptions/listen",
        "params": {
            "notifications": {"toolsListChanged": True},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {**MCP_HEADERS, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
    with (
        server.client() as client,
        client.stream("POST", "/mcp", json=body, headers=headers) as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        server.end()
    assert WAITED not in server.said(), "it does not wait as for requests in flight"
    assert_clean(server.home)


def test_a_second_signal_ends_it_at_once(here: Machine) -> None:
    server = here.serve(here.home())
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(b"POST /init HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        server.child.send_signal(signal.SIGTERM)
        wait_until(lambda: recorded(server.home) is None, "it has begun to end")
        server.end()
    assert WAITED not in server.said()
    assert "ending at once" in server.said()
    assert_clean(server.home)


def test_a_reader_that_goes_away_does_not_end_it(here: Machine) -> None:
    home, port = here.home(), free_port()
    child = subprocess.Popen(
        [*COMMAND, "serve", "--port", str(port)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: recorded(home), "it answers")
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stderr.close()
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        child.terminate()
        assert child.wait(SHUTDOWN_LIMIT) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert_clean(home)


@asynccontextmanager
async def http_session(server: Process, *, key: str | None = None, **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key or owner_key(server.home)}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http), **options) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_mcp_over_http_speaks_both_eras(server: Process, mode: str) -> None:
    async with http_session(server, mode=mode) as client:
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names[:2] == ["init_app", "manage_app"]
        made = await client.call_tool("init_app", {"name": f"http-{mode}"})
        assert not made.is_error
        pages = await client.list_resource_templates()
        assert "brolly://tools/{tool}" in [t.uri_template for t in pages.resource_templates]
        page = await client.read_resource("brolly://tools/init_app")
        assert page.contents


async def test_losing_something_asks_the_person_where_the_client_can(server: Process) -> None:
    asked: list[str] = []

    def answering(action: str) -> Any:
        async def answer(_context: Any, params: Any) -> ElicitResult:
            asked.append(params.message)
            return ElicitResult(action=action, content={"confirm": True} if action == "accept" else None)  # type: ignore[arg-type]

        return answer

    async with http_session(server, elicitation_callback=answering("decline")) as client:
        app_id = structured(await client.call_tool("init_app", {"name": "doomed"}))["app_id"]
        refused = await client.call_tool("manage_app", {"action": "delete", "app_id": app_id})
        assert refused.is_error
        assert structured(refused)["error"]["code"] == "CONFIRMATION_REQUIRED"
        assert app_id in await app_ids(client)
    async with http_session(server, elicitation_callback=answering("accept")) as client:
        done = await client.call_tool("manage_app", {"action": "delete", "app_id": app_id})
        assert not done.is_error
        assert app_id not in await app_ids(client)
    assert len(asked) == 2
    assert all("doomed" in question for question in asked)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_elsewhere_it_wants_confirm(server: Process, mode: str) -> None:
    async with http_session(server, mode=mode) as client:
        app_id = structured(await client.call_tool("init_app", {"name": f"doomed-{mode}"}))["app_id"]
        refused = await client.call_tool("manage_app", {"action": "delete", "app_id": app_id})
        assert structured(refused)["error"]["code"] == "CONFIRMATION_REQUIRED"
        assert app_id in await app_ids(client)
        done = await client.call_tool("manage_app", {"action": "delete", "app_id": app_id, "confirm": True})
        assert not done.is_error


def structured(result: Any) -> Any:
    return json.loads(result.content[0].text)


async def app_ids(client: Client) -> list[str]:
    return [app["id"] for app in structured(await client.call_tool("manage_app", {"action": "list"}))["apps"]]


def test_mcp_over_http_wants_a_key_and_says_where_to_read_on(server: Process) -> None:
    for headers in ({}, {"Authorization": "Bearer bb_sk_" + "1" * 40}):
        refused = httpx.post(f"{server.url}/mcp", json=HANDSHAKE, headers={**MCP_HEADERS, **headers}, trust_env=False)
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        where = challenge.split('resource_metadata="')[1].split('"')[0]
        assert refused.json()["error"]["code"].startswith("AUTH_")
        document = httpx.get(where, trust_env=False).json()
        assert document["resource"] == f"{server.url}/mcp"
        assert document["bearer_methods_supported"] == ["header"]


def test_mcp_over_http_refuses_what_browsers_of_strangers_send(server: Process) -> None:
    with server.client() as client:
        ok = client.post("/mcp", json=HANDSHAKE, headers=MCP_HEADERS)
        assert ok.status_code == 200
        host = client.post("/mcp", json=HANDSHAKE, headers={**MCP_HEADERS, "Host": "evil.example"})
        assert host.status_code == 421
        origin = client.post("/mcp", json=HANDSHAKE, headers={**MCP_HEADERS, "Origin": "https://evil.example"})
        assert origin.status_code == 403
        got = client.get("/mcp", headers=MCP_HEADERS)
        assert got.status_code == 405
        assert "POST" in got.headers["allow"]
