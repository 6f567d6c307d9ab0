"""Functions of two servers over one Postgres: what is to run once does so once, whichever ends in between."""

from __future__ import annotations

import hashlib
import hmac
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import anyio
import asyncpg
import httpx
import pytest_asyncio

from brolly.pg.embedded import embedded_postgres
from tests.e2e.processes import Machine, Process, wait_until

SECRET = "the same secret on every replica, 32 characters or more"
SIGNED = "whsec_of-the-test"
NOTE = """export async function handler(request: Request, ctx: any) {
  await new Promise((r) => setTimeout(r, 200));
  await ctx.db.query("insert into notes (what) values ($1)", [ctx.trigger.type]);
  return new Response("ok");
}"""
HANG = "export const handler = () => new Promise(() => {})"


@dataclass
class Pair:
    """Two servers, their Postgres, and an app with a table ``notes``."""

    one: Process
    two: Process
    dsn: str
    app: str

    def ask(self, method: str, path: str, server: Process | None = None, **body: Any) -> Any:
        """The answer to the owner."""
        with (server or self.one).client() as http:
            answer = http.request(method, f"/v1/{self.app}{path}", json=body or None, timeout=60)
            assert answer.is_success, answer.text
            return answer.json()

    def deploy(self, name: str, code: str, trigger: str, **config: Any) -> None:
        self.ask("POST", "/functions", name=name, code=code, trigger={"type": trigger, "config": config})

    def notes(self) -> list[str]:
        return [row["what"] for row in self.ask("GET", "/notes")]

    async def sql(self, sql: str, *values: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(sql, *values)
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(shared: Machine) -> AsyncIterator[Pair]:
    async with embedded_postgres(shared.home(), "administrator") as postgres:
        server = postgres.server
        dsn = f"postgresql://{server.user}:{server.password}@/{server.database}?host={quote(server.host, safe='')}"
        one, two = (shared.start(shared.home(), database_url=dsn, secret=SECRET) for _ in range(2))
        for replica in (one, two):
            await anyio.to_thread.run_sync(replica.ready)
        with one.client() as http:
            app = http.post("/init", json={"name": "twice"}).json()["app_id"]
        made = Pair(one, two, dsn, app)
        columns = {"id": {"type": "bigserial", "primaryKey": True}, "what": {"type": "text"}}
        made.ask("POST", "/schema/apply", schema={"tables": {"notes": {"columns": columns}}})
        yield made
        for replica in (one, two):
            await anyio.to_thread.run_sync(replica.end)


async def test_a_time_of_the_clock_and_a_delivery_run_once(pair: Pair) -> None:
    """Both servers look each second, and both get the same delivery at the same moment."""
    pair.deploy("clock", NOTE, "cron", schedule="0 0 1 1 *")
    pair.deploy("hook", NOTE, "webhook", secret=SIGNED, idempotency_key_header="X-Delivery")
    await pair.sql("update brolly.cron_triggers set next_run_at = now() - interval '1 minute'")
    signature = hmac.new(SIGNED.encode(), b"{}", hashlib.sha256).hexdigest()
    headers = {"x-signature": signature, "x-delivery": "d1"}
    answers: list[httpx.Response] = []

    def send(server: Process) -> None:
        url = f"{server.url}/v1/{pair.app}/webhook/hook"
        answers.append(httpx.post(url, content=b"{}", headers=headers, timeout=60, trust_env=False))

    async with anyio.create_task_group() as group:
        for server in (pair.one, pair.two) * 4:
            group.start_soon(anyio.to_thread.run_sync, send, server)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sum("x-butterbase-duplicate" in answer.headers for answer in answers) == 7
    await anyio.to_thread.run_sync(wait_until, lambda: "cron" in pair.notes(), "the clock's function ran")
    assert sorted(pair.notes()) == ["cron", "webhook"]
    assert len(await pair.sql("select 1 from brolly.cron_runs")) == 1


async def test_a_sign_in_on_a_killed_server_is_told_by_another_once(shared: Machine, pair: Pair) -> None:
    third = shared.serve(shared.home(), database_url=pair.dsn, secret=SECRET)
    pair.deploy("greet", HANG, "http")
    pair.ask("PATCH", "/config/auth-hooks", post_auth_function="greet")
    person = {"email": "ann@example.com", "password": "Correct-horse-7"}
    with third.client() as http:
        assert http.post(f"/auth/{pair.app}/signup", json=person, timeout=60).is_success
    # Killed while the function runs; one that was not even begun looks the same.
    third.end(signal.SIGKILL)
    pair.deploy("greet", NOTE, "http")
    assert len(await pair.sql("select 1 from brolly.function_events where attempts = 1 and due_at > now()")) == 1
    await pair.sql("update brolly.function_events set due_at = now()")
    with anyio.fail_after(30):
        while await pair.sql("select 1 from brolly.function_events"):  # noqa: ASYNC110 - other processes
            await anyio.sleep(0.1)
    assert pair.notes().count("auth_hook") == 1
