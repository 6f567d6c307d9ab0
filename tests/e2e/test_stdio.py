"""``brolly mcp``: what an editor starts. Every session here is a real process with real pipes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest
from mcp import Client

from brolly.daemon import is_held, server_lock
from tests.e2e.pipes import INITIALIZE, MODERN, call, pipes, read
from tests.e2e.processes import (
    COMMAND,
    Machine,
    brolly,
    environment,
    free_port,
    owner_key,
    recorded,
    stdio,
    wait_until,
)


@pytest.fixture(scope="module")
def home(shared: Machine) -> Path:
    """A data folder whose server the first ``brolly mcp`` starts."""
    return shared.home()


async def test_three_clients_at_once_start_one_server_and_share_it(home: Path) -> None:
    pids: list[int] = []
    apps: list[str] = []

    async def work(number: int) -> None:
        async with Client(stdio(home), mode="legacy" if number else "auto") as client:
            made = read(await client.call_tool("init_app", {"name": "shared"}))
            apps.append(made["app_id"])
            found = recorded(home)
            assert found is not None
            pids.append(found["pid"])

    with anyio.fail_after(40):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(work, number)
    assert len(set(apps)) == 1
    assert len(set(pids)) == 1
    servers = [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(home) in (p.info["cmdline"] or []) and "serve" in p.info["cmdline"]
    ]
    assert [p.pid for p in servers] == pids[:1]
    assert (home / "logs" / "server.log").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_session_of_either_era(home: Path, mode: str) -> None:
    async with Client(stdio(home), mode=mode) as client:
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "init_app" in names
        made = read(await client.call_tool("init_app", {"name": f"era-{mode}"}))
        assert made["provisioning_status"] == "ready"
        again = read(await client.call_tool("init_app", {"name": f"era-{mode}"}))
        assert (again["app_id"], again["created"]) == (made["app_id"], False)
        page = await client.read_resource("brolly://tools/init_app")
        assert page.contents
        wrong = await client.call_tool("manage_app", {"action": "pauze", "app_id": made["app_id"]})
        assert wrong.is_error
        assert "pause" in read(wrong)["error"]["message"]


async def test_the_person_is_asked_through_the_bridge(home: Path) -> None:
    from mcp.types import ElicitResult

    asked: list[str] = []

    async def agree(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"confirm": True})

    async with Client(stdio(home), elicitation_callback=agree) as client:
        made = read(await client.call_tool("init_app", {"name": "doomed"}))
        done = await client.call_tool("manage_app", {"action": "delete", "app_id": made["app_id"]})
        assert not done.is_error
    assert len(asked) == 1
    assert "doomed" in asked[0]


def test_many_requests_are_in_flight_and_nothing_else_is_printed(home: Path) -> None:
    with pipes(home) as session:
        session.send(INITIALIZE)
        assert session.receive()["id"] == "first"
        session.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        session.send(*(call(number, "manage_app", action="list") for number in range(40)))
        session.send(b"this is not JSON", b"", b"[]", b'"text"', {"jsonrpc": "2.0", "id": {}, "method": "ping"})
        session.send([call("in a batch", "list_regions")])
        seen = [session.receive() for _ in range(43)]
        assert {m["id"] for m in seen if m["id"] is not None} == {*range(40), "in a batch"}
        assert [m["error"]["code"] for m in seen if m["id"] is None] == [-32700, -32600]
        assert session.close() < 1.0
        assert session.child.returncode == 0
        assert session.child.stdout is not None
        assert session.child.stdout.read() == b""
    assert recorded(home) is not None, "the server lives on"


def test_names_that_no_header_holds_arrive(home: Path) -> None:
    with pipes(home) as session:
        session.send(call(1, "größe\n", modern=True))
        answer = session.answer(1)
    assert "größe" in answer["result"]["content"][0]["text"]


def test_stdin_that_ends_cancels_what_lasts(home: Path) -> None:
    listen = {
        "jsonrpc": "2.0",
        "id": "listening",
        "method": "subscriptions/listen",
        "params": {"notifications": {"toolsListChanged": True}, "_meta": MODERN},
    }
    with pipes(home) as session:
        session.send(listen)
        assert session.receive()["method"].startswith("notifications/")
        session.send(call(1, "list_regions", modern=True))
        assert "result" in session.answer(1), "others are answered meanwhile"
        assert session.close() < 1.0


def test_a_cancelled_request_is_not_answered(home: Path) -> None:
    listen = {
        "jsonrpc": "2.0",
        "id": "listening",
        "method": "subscriptions/listen",
        "params": {"notifications": {"toolsListChanged": True}, "_meta": MODERN},
    }
    with pipes(home) as session:
        session.send(listen)
        assert session.receive()["method"].startswith("notifications/")
        session.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "listening"}})
        session.send(call(1, "list_regions", modern=True))
        assert session.receive()["id"] == 1
        assert session.close() < 0.5, "nothing is in flight any more"


async def test_the_next_call_after_the_server_was_killed_works(home: Path) -> None:
    async with Client(stdio(home), mode="auto") as modern, Client(stdio(home), mode="legacy") as legacy:
        for client in (modern, legacy):
            assert not (await client.call_tool("list_regions", {})).is_error
        before = recorded(home)
        assert before is not None
        os.kill(before["pid"], signal.SIGKILL)
        wait_until(lambda: not is_held(server_lock(home)), "it is dead")
        with anyio.fail_after(20):
            for client in (modern, legacy):
                assert read(await client.call_tool("init_app", {"name": "shared"}))["created"] is False
        after = recorded(home)
        assert after is not None
        assert after["pid"] != before["pid"]


async def test_one_client_may_hold_itself_to_less_than_the_others(home: Path) -> None:
    async with (
        Client(stdio(home, "--read-only", "--tools", "app,list_regions")) as narrow,
        Client(stdio(home, read_only="1"), mode="legacy") as reader,
        Client(stdio(home)) as wide,
    ):
        listed = (await narrow.list_tools()).tools
        assert [tool.name for tool in listed] == ["manage_app", "list_regions"]
        assert "delete" not in listed[0].input_schema["properties"]["action"]["enum"]
        assert "init_app" not in [tool.name for tool in (await reader.list_tools()).tools]
        for client in (narrow, reader):
            refused = await client.call_tool("init_app", {"name": "no"})
            assert refused.is_error
        made = read(await wide.call_tool("init_app", {"name": "shared"}))
    async with Client(stdio(home, "--app", made["app_id"], "--tools", "schema,init_app")) as held:
        [only] = (await held.list_tools()).tools
        assert (only.name, "app_id" in str(only)) == ("manage_schema", False)
        assert not (await held.call_tool("manage_schema", {"action": "get"})).is_error
    found = recorded(home)
    assert found is not None
    key = {"Authorization": f"Bearer {owner_key(home)}", "Accept": "application/json, text/event-stream"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with httpx.AsyncClient(base_url=found["url"], headers=key) as http:
        listed = (await http.post(f"/mcp?app={made['app_id']}&tools=schema,init_app", json=body)).json()
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["manage_schema"]
    assert "app_id" not in str(listed)


def test_without_a_valid_key_every_answer_says_what_to_do(home: Path) -> None:
    with pipes(home, api_key="bb_sk_" + "0" * 40) as session:
        session.send(INITIALIZE)
        error = session.answer("first")["error"]
        assert "BROLLY_API_KEY" in error["message"]
        session.send(call(2, "manage_app", modern=True, action="list"))
        result = session.answer(2)["result"]
        assert (result["isError"], result["resultType"]) == (True, "complete")
        body = json.loads(result["content"][0]["text"])["error"]
        assert body["code"] == "AUTH_INVALID_API_KEY"
        assert "BROLLY_API_KEY" in body["remediation"]
    with pipes(home, url="https://brolly.example") as session:
        session.send(call(3, "manage_app", action="list"))
        body = json.loads(session.answer(3)["result"]["content"][0]["text"])["error"]
        assert body["code"] == "AUTH_REQUIRED", "the owner's key of this machine is not sent elsewhere"


def test_a_remote_server_is_used_and_never_started(here: Machine, home: Path) -> None:
    found = recorded(home)
    assert found is not None
    other = here.home()
    with pipes(other, url=found["url"], api_key=owner_key(home)) as session:
        session.send(call(1, "list_regions"))
        assert not session.answer(1)["result"].get("isError")
    with pipes(other, url=f"http://127.0.0.1:{free_port()}", api_key=owner_key(home)) as session:
        session.send(call(1, "list_regions"), {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}})
        body = json.loads(session.answer(1)["result"]["content"][0]["text"])["error"]
        assert "cannot be reached" in body["message"]
        assert "cannot be reached" in session.answer(2)["error"]["message"]
    with pipes(other, url="127.0.0.1:4000", api_key=owner_key(home)) as session:
        session.send(call(1, "list_regions"))
        body = json.loads(session.answer(1)["result"]["content"][0]["text"])["error"]
        assert (body["code"], "BROLLY_URL" in body["message"]) == ("CONFIG_INVALID", True)
    assert not other.exists(), "nothing was started for it"


@pytest.mark.parametrize(
    ("more", "instead"),
    [
        ("?read_only=true", "BROLLY_READ_ONLY=1 or --read-only"),
        ("?tools=manage_schema&Read-Only=1#x", "BROLLY_READ_ONLY=1 or --read-only and BROLLY_TOOLS or --tools"),
        ("#read_only", "BROLLY_READ_ONLY=1 or --read-only"),
        ("?", ""),
        ("?api_key=bb_sk_1", ""),
    ],
)
def test_a_remote_server_takes_no_parameters(here: Machine, more: str, instead: str) -> None:
    """They would end up in the middle of the path: what is meant to be read-only would not be."""
    done = brolly(here.home(), "mcp", url=f"http://127.0.0.1:4731/mcp{more}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: BROLLY_URL goes on after a {more[0]}, which" in done.stderr
    assert f"End BROLLY_URL before the {more[0]}" + (f" and use {instead}." if instead else ".") in done.stderr
    assert "bb_sk" not in done.stderr


def test_a_server_that_cannot_start_is_told_and_tried_again(here: Machine) -> None:
    home = here.home()
    home.mkdir(mode=0o700)
    (home / "secret.key").write_text("too short")
    with pipes(home) as session:
        session.send(call(1, "manage_app", action="list"))
        body = json.loads(session.answer(1)["result"]["content"][0]["text"])["error"]
        assert body["code"] == "CONFIG_INVALID"
        assert "secret.key" in body["message"]
        (home / "secret.key").unlink()

        def works() -> bool:
            session.send(call(2, "manage_app", action="list"))
            return not session.answer(2)["result"].get("isError")

        wait_until(works, "it has started the server")


def test_a_port_in_use_matters_only_if_it_was_asked_for(here: Machine) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = str(stranger.getsockname()[1])
        refused = brolly(here.home(), "up", port=port)
        assert refused.returncode == 1
        assert f"Port {port}" in refused.stderr
        refused = brolly(here.home(), "up", "--port", port)
        assert refused.returncode == 1
        with pipes(here.home(), port=port) as session:
            session.send(call(1, "list_regions"))
            assert f"Port {port}" in session.answer(1)["result"]["content"][0]["text"]


def test_it_imports_neither_the_sdk_nor_the_database(home: Path) -> None:
    code = (
        "import sys; sys.argv = ['brolly', 'mcp']\nfrom brolly.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", code],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    for heavy in ("mcp", "pydantic", "asyncpg", "uvicorn", "starlette"):
        assert f"'{heavy}'" not in done.stderr


def test_no_message_ends_the_bridge(home: Path) -> None:
    version = "io.modelcontextprotocol/protocolVersion"
    with pipes(home) as session:
        session.send(INITIALIZE)
        session.send(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": []}},
            {"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": {version: "☃"}}},
            {"jsonrpc": "2.0", "method": "\ud800", "params": {"name": "\ud800", "_meta": {version: "2026-07-28"}}},
            {"jsonrpc": "2.0", "id": "\ud800", "method": "tools/list"},
            {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "\ud800", "_meta": {version: "☃"}}},
            {"jsonrpc": "2.0", "id": 6, "method": "ping"},
        )
        session.send({"jsonrpc": "2.0", "id": "last", "method": "ping"})
        session.answer("last")
        assert session.close() < 1.0
        assert session.child.returncode == 0
