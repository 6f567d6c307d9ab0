"""Clients of a server that is killed in the middle miss nothing; ``brolly tail`` shows what happens."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from typing import Any

import anyio
import httpx

from tests.e2e.processes import Machine, Process, brolly, environment, owner_key
from tests.e2e.test_durability import kill_postgres
from tests.realtime.sockets import Client, admitted

HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
SCHEMA = {
    "tables": {"things": {"columns": {"id": {"type": "bigserial", "primaryKey": True}, "n": {"type": "integer"}}}}
}


def call(client: httpx.Client, tool: str, **arguments: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    response = client.post("/mcp", json=body)
    assert response.status_code == 200, response.text
    return json.loads(json.loads(response.text)["result"]["content"][0]["text"])


def prepare(server: Process) -> str:
    with server.client(**HEADERS) as http:
        app_id = call(http, "init_app", name="watched")["app_id"]
        call(http, "manage_schema", action="apply", app_id=app_id, schema=SCHEMA)
        call(http, "manage_realtime", action="configure", app_id=app_id, tables=["things"])
    return app_id


class Reader:
    """A client that comes back with ``since`` whenever it loses the connection."""

    def __init__(self, server: Process, app_id: str) -> None:
        self.url, self.app_id, self.key = server.url.replace("http", "ws", 1), app_id, owner_key(server.home)
        self.since: str | None = None
        self.began: str | None = None
        self.heard: list[int] = []
        self.connections = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                async with admitted(self.url, self.app_id, self.key) as one:
                    self.connections += 1
                    await self.listen(one)
            except Exception:
                # Refused while nobody listens, or closed by the end of the process.
                await asyncio.sleep(0.05)

    async def listen(self, one: Client) -> None:
        await one.send("subscribe", table="things", **({"since": self.since} if self.since else {}))
        while True:
            message = await one.next("subscribed", "change", "error")
            assert message["type"] != "error", message
            if message["type"] == "change":
                self.heard.append(message["record"]["n"])
                self.since = message["id"]
            else:
                self.since = self.since or message["since"]
                self.began = self.began or self.since
                self.ready.set()


async def write(server: Process, app_id: str, first: int, end: int) -> list[int]:
    """Rows one after another, as long as the server answers; those that it has answered for."""
    stored: list[int] = []
    headers = {"Authorization": f"Bearer {owner_key(server.home)}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as http:
        for number in range(first, end):
            try:
                answer = await http.post(f"/v1/{app_id}/things", json={"n": number})
            except httpx.TransportError:
                break
            assert answer.status_code == 201, answer.text
            stored.append(number)
    return stored


async def test_clients_of_a_killed_server_miss_nothing(here: Machine) -> None:
    home = here.home()
    server = here.start(home)
    await anyio.to_thread.run_sync(server.ready)
    app_id = prepare(server)
    readers = [Reader(server, app_id) for _ in range(5)]
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    for reader in readers:
        await asyncio.wait_for(reader.ready.wait(), 20)
    writing = asyncio.create_task(write(server, app_id, 0, 100_000))
    while len(readers[0].heard) < 100:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await anyio.to_thread.run_sync(server.end, signal.SIGKILL)
    stored = await writing
    again = here.start(home, port=server.port)
    await anyio.to_thread.run_sync(again.ready)
    stored += await write(again, app_id, 100_000, 100_050)
    async with asyncio.timeout(60):
        while any(not reader.heard or reader.heard[-1] != 100_049 for reader in readers):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    for reader in readers:
        assert reader.connections >= 2
        assert len(set(reader.heard)) == len(reader.heard)
        # One more may have been stored than was answered for.
        assert set(stored) <= set(reader.heard)
        assert len(reader.heard) <= len(stored) + 1
    await anyio.to_thread.run_sync(tail, again, app_id)


async def write_on(server: Process, app_id: str, ended: asyncio.Event) -> list[int]:
    """Rows until ``ended``, whatever happens to Postgres. Every other transaction is rolled back."""
    stored: list[int] = []
    headers = {"Authorization": f"Bearer {owner_key(server.home)}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=30) as http:
        while not ended.is_set():
            number = stored[-1] + 1 if stored else 0
            # What was not answered for may be stored all the same; then the next one says so.
            answer = await http.post(f"/v1/{app_id}/things", json={"id": number, "n": number})
            if answer.status_code in (201, 400):
                stored.append(number)
                again = await http.post(f"/v1/{app_id}/things", json={"id": number, "n": number})
                assert again.status_code in (400, 503), again.text
            else:
                assert answer.status_code == 503, answer.text
                await asyncio.sleep(0.05)
    return stored


async def test_clients_miss_nothing_when_postgres_is_killed(here: Machine) -> None:
    server = here.start(here.home())
    await anyio.to_thread.run_sync(server.ready)
    app_id = prepare(server)
    readers = [Reader(server, app_id) for _ in range(3)]
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    for reader in readers:
        await asyncio.wait_for(reader.ready.wait(), 20)
    ended = asyncio.Event()
    writing = asyncio.create_task(write_on(server, app_id, ended))
    async with asyncio.timeout(90):
        while len(readers[0].heard) < 40:
            assert not writing.done(), writing.exception()
            await asyncio.sleep(0.01)
        await anyio.to_thread.run_sync(kill_postgres, server)
        heard = len(readers[0].heard)
        while len(readers[0].heard) < heard + 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ended.set()
        stored = await writing
        while any(reader.heard[-1] != stored[-1] for reader in readers):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        # Another who comes only now, from where the first one began.
        late = Reader(server, app_id)
        late.since = readers[0].began
        tasks.append(asyncio.create_task(late.run()))
        while not late.heard or late.heard[-1] != stored[-1]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    for reader in (*readers, late):
        assert reader.heard == stored


def tail(server: Process, app_id: str) -> None:
    command = [sys.executable, "-P", "-m", "brolly", "tail", "watched", "things", "--json", "--filter", "n=gte.7"]
    with subprocess.Popen(command, env=environment(server.home), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with server.client() as http:
                stop = threading.Event()

                def add() -> None:
                    # It may not have subscribed yet.
                    while not stop.wait(0.1):
                        http.post(f"/v1/{app_id}/things", json=[{"n": 6}, {"n": 7}])

                adding = threading.Thread(target=add)
                adding.start()
                shown = json.loads(process.stdout.readline())
                stop.set()
                adding.join()
            assert (shown["op"], shown["record"]["n"]) == ("INSERT", 7)
        finally:
            process.terminate()
    wrong = brolly(server.home, "tail", "watched", "nowhere")
    assert wrong.returncode == 1
    assert "There is no table 'nowhere'." in wrong.stderr
