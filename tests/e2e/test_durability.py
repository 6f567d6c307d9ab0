"""What was acknowledged is kept, and half-made apps vanish, whatever is killed and whenever."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import asyncpg
import httpx

from brolly.app import read_secret
from brolly.core.settings import load_settings
from brolly.core.tokens import derive
from brolly.pg.embedded import cluster
from tests.e2e.processes import Machine, Process, brolly, postmaster, wait_until

VERSION = "2025-06-18"
MOMENTS = (0.03, 0.1, 0.2)
"""Seconds after four apps were asked for; one takes 0.05 to 0.1 s."""


class Tools:
    """Tool calls over HTTP, one request each."""

    def __init__(self, server: Process) -> None:
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
        self._client = server.client(**headers)

    def call(self, tool: str, **arguments: Any) -> tuple[int, Any]:
        """Status and answer; status 0 when there was no answer, 200 for a result, else that of the error."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        try:
            response = self._client.post("/mcp", json=body)
        except httpx.HTTPError:
            return 0, None
        if response.status_code != 200:
            return response.status_code, response.json()
        data = response.text
        result = json.loads(data)["result"]
        answer = json.loads(result["content"][0]["text"])
        return (400 if result.get("isError") else 200), answer

    def must(self, tool: str, **arguments: Any) -> Any:
        status, answer = self.call(tool, **arguments)
        assert status == 200, answer
        return answer

    def close(self) -> None:
        self._client.close()


class Writer:
    """Inserts numbers one after the other, and remembers which were acknowledged."""

    def __init__(self, app_id: str) -> None:
        self.app_id = app_id
        self.sent = 0
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, server: Process) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(Tools(server),))
        self._thread.start()

    def _run(self, tools: Tools) -> None:
        while not self._stop.is_set():
            self.sent += 1
            status, answer = tools.call("insert_row", app_id=self.app_id, table="numbers", data={"n": self.sent})
            if status == 200:
                assert answer["row"]["n"] == self.sent
                self.acknowledged.append(self.sent)
            else:
                self._stop.wait(0.05)
        tools.close()

    def more(self, count: int) -> None:
        """Wait for that many more acknowledgements."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, f"{count} more rows are acknowledged")

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(20)


def kill_postgres(server: Process) -> int:
    process = postmaster(server.home)
    assert process is not None
    process.send_signal(signal.SIGKILL)
    return process.pid


def test_every_acknowledged_row_is_there_after_kills_of_server_and_postgres(here: Machine) -> None:
    home = here.home()
    server = here.serve(home)
    tools = Tools(server)
    app_id = tools.must("init_app", name="durable")["app_id"]
    columns = {"id": {"type": "bigserial", "primaryKey": True}, "n": {"type": "integer", "nullable": False}}
    tools.must("manage_schema", action="apply", app_id=app_id, schema={"tables": {"numbers": {"columns": columns}}})
    tools.close()
    writer = Writer(app_id)
    for victim in ("server", "postgres", "server and postgres", "postgres"):
        writer.start(server)
        writer.more(15)
        if "postgres" in victim:
            kill_postgres(server)
        if "server" in victim:
            server.end(signal.SIGKILL)
            writer.stop()
            server = here.serve(home, port=server.port)
        else:
            writer.more(5)
            writer.stop()
    found = stored(server, app_id)
    assert len(writer.acknowledged) >= 70
    assert set(writer.acknowledged) <= set(found), "an acknowledged row is lost"
    assert set(found) <= set(range(1, writer.sent + 1))
    assert len(found) == len(set(found)), "a row was written twice"
    server.end()


def stored(server: Process, app_id: str) -> list[int]:
    """Every number, read page by page."""
    tools = Tools(server)
    found: list[int] = []
    while True:
        page = tools.must("select_rows", app_id=app_id, table="numbers", order="id.asc", limit=100, offset=len(found))[
            "rows"
        ]
        found += [row["n"] for row in page]
        if len(page) < 100:
            tools.close()
            return found


def test_while_postgres_is_gone_calls_say_so_and_then_work_again(here: Machine) -> None:
    server = here.serve(here.home())
    tools = Tools(server)
    with server.client() as client:
        assert client.get("/apps").status_code == 200
        killed = kill_postgres(server)
        refused: list[httpx.Response] = []

        def works() -> bool:
            responses = [
                client.get("/apps"),
                client.get("/health/ready"),
                client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}),
            ]
            refused.extend(r for r in responses if r.status_code >= 500)
            return responses[0].status_code == responses[1].status_code == 200

        wait_until(works, "it works again")
        assert client.get("/health").status_code == 200
    assert refused, "the kill went unnoticed"
    for response in refused:
        assert response.status_code == 503, response.text
        assert response.json()["error"]["code"] == "EXTERNAL_DB_ERROR"
        assert int(response.headers["retry-after"]) > 0
    tools.must("init_app", name="after")
    tools.close()
    now = postmaster(server.home)
    assert now is not None
    assert now.pid != killed
    server.end()
    assert postmaster(server.home) is None


async def admin(server: Process) -> asyncpg.Connection[Any]:
    password = derive(read_secret(load_settings({}, home=server.home)), "postgres-administrator")
    [sockets] = [line for line in (server.home / "postgres" / "postmaster.pid").read_text().splitlines()[4:5]]
    return await asyncpg.connect(
        host=sockets, port=cluster.PORT, user=cluster.ADMINISTRATOR, password=password, database="brolly", timeout=10
    )


async def settled_apps(server: Process) -> list[str]:
    """No app is half there: rows, databases and logins agree. Returns the names of the apps."""
    connection = await admin(server)
    try:
        unfinished = "select count(*) from brolly.apps where status <> 'ready'"
        for _ in range(300):
            if not await connection.fetchval(unfinished):
                break
            await connection.execute("select pg_sleep(0.05)")
        apps = await connection.fetch("select id, name, status from brolly.apps")
        assert {row["status"] for row in apps} <= {"ready"}
        ids = {row["id"] for row in apps}
        databases = await connection.fetch(r"select datname from pg_database where datname like 'app\_%'")
        assert {row["datname"] for row in databases} == ids
        logins = await connection.fetch(r"select rolname from pg_roles where rolname like 'app\_%'")
        assert {row["rolname"] for row in logins} == {f"{i}_{kind}" for i in ids for kind in ("api", "owner")}
        return [row["name"] for row in apps]
    finally:
        await connection.close()


async def test_an_app_is_whole_or_not_there_whenever_the_server_is_killed(here: Machine) -> None:
    home = here.home()
    server = here.serve(home)
    whole: set[str] = set()
    for number, pause in enumerate(MOMENTS):
        names = [f"half-{number}-{i}" for i in range(4)]
        started = threading.Barrier(len(names) + 1)
        made: list[str] = []

        def make(
            name: str,
            server: Process = server,
            started: threading.Barrier = started,
            made: list[str] = made,
        ) -> None:
            tools = Tools(server)
            started.wait(10)
            if tools.call("init_app", name=name)[0] == 200:
                made.append(name)
            tools.close()

        threads = [threading.Thread(target=make, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        started.wait(10)
        threading.Event().wait(pause)  # the moment of the kill is what varies here
        server.end(signal.SIGKILL)
        for thread in threads:
            thread.join()
        server = here.serve(home, port=server.port)
        there = await settled_apps(server)
        whole |= set(made)
        assert whole <= set(there), "an acknowledged app is lost"
    tools = Tools(server)
    for number in range(len(MOMENTS)):
        for i in range(4):
            tools.must("init_app", name=f"half-{number}-{i}")
    tools.close()
    server.end()


async def test_a_name_is_free_again_while_postgres_still_works_for_the_dead(here: Machine) -> None:
    home = here.home()
    server = here.serve(home)
    blocker = await admin(server)
    transaction = blocker.transaction()
    await transaction.start()
    # Making a database writes to this table: it waits here, after the app's row and logins are committed.
    await blocker.execute("lock table pg_database in share mode")
    tools = Tools(server)
    attempt = threading.Thread(target=tools.call, args=("init_app",), kwargs={"name": "stuck"})
    attempt.start()
    waiting = "select count(*) from pg_locks where relation = 'pg_database'::regclass and not granted"
    for _ in range(200):
        if await blocker.fetchval(waiting):
            break
        await blocker.execute("select pg_sleep(0.05)")
    assert await blocker.fetchval("select count(*) from brolly.apps where status = 'provisioning'") == 1
    server.end(signal.SIGKILL)
    attempt.join()
    tools.close()
    await transaction.rollback()
    # From here on this connection is the one that is still busy for the dead server.
    app_id = await blocker.fetchval("select id from brolly.apps where name = 'stuck'")
    await blocker.execute("select pg_advisory_lock(hashtextextended($1, 0))", app_id)
    server = here.serve(home, port=server.port)
    assert await blocker.fetchval("select status from brolly.apps where id = $1", app_id) == "provisioning"
    await blocker.close()
    assert await settled_apps(server) == []
    tools = Tools(server)
    assert tools.must("init_app", name="stuck")["created"] is True
    tools.close()
    server.end()


def test_a_server_killed_with_its_postgres_leaves_nothing_running_after_down(here: Machine) -> None:
    home = here.home()
    server = here.serve(home)
    os.kill(server.child.pid, signal.SIGKILL)
    server.child.wait()
    assert postmaster(home) is not None
    done = brolly(home, "down")
    assert done.returncode == 0, done.stderr
    assert "Postgres" in done.stdout
    assert postmaster(home) is None
