"""The engine by itself: what a function cannot do, and what becomes of one that does not behave."""

from __future__ import annotations

import json
import os

import anyio
import anyio.abc
import psutil
import pytest

from brolly.core.errors import AppError
from brolly.engines.deno import Engine, Program
from brolly.engines.deno.place import find_place
from tests.functions.engine_calls import Calls, call, program


async def test_a_request_reaches_the_handler_and_its_answer_comes_back(engine: Engine) -> None:
    status, body, answer = await call(engine, "x", body=b"hello")
    assert status == 200
    assert b'"body":"hello"' in body
    assert b'"user":{"id":"u1"}' in body
    assert not answer.failed
    status, body, answer = await call(engine, "bytes")
    assert (status, body) == (201, b"\x00\xff\n")
    assert ("x-own", "yes") in answer.headers
    assert (await call(engine, "environ"))[1] == b"a secret,a secret,a secret"


@pytest.mark.parametrize(
    "what",
    ["file", "itself", "write", "program", "environment", "name", "written", "six", "mapped", "private", "metadata",
     "loopback", "listen", "library"],
)  # fmt: skip
async def test_what_is_outside_is_closed(engine: Engine, what: str) -> None:
    assert (await call(engine, what))[1] == b"NotCapable"


async def test_ipv6_is_closed_with_its_private_networks(engine: Engine) -> None:
    for address in ("fc00::1", "fdff:1::2", "fe80::1", "ff02::1", "64:ff9b::a00:1", "2002:a00:1::1", "2001::a00:1"):
        said = (await call(engine, f"address?to={address}"))[1]
        # No such socket can be made, so that nothing depends on which addresses there are.
        assert b"Address family not supported" in said, (address, said)


async def test_functions_do_not_run_as_root(engine: Engine) -> None:
    await call(engine, "x")
    [process] = [app.process for app in engine._apps.values() if app.process is not None]
    assert process._process is not None
    owner = psutil.Process(process._process.pid).uids().real
    account = find_place(engine._bounds.cache).account
    assert owner == account.uid != 0
    assert (owner != os.geteuid()) == account.foreign


async def test_modules_of_private_hosts_and_a_cache_for_all_apps_are_closed(engine: Engine) -> None:
    assert [(await call(engine, what))[1] for what in ("sharedcache", "module")] == [b"Error", b"TypeError"]


async def test_the_supervisor_is_out_of_reach(engine: Engine) -> None:
    for folder in (engine.folder, *(path for path in engine.folder.iterdir() if path.is_dir())):
        assert (await call(engine, "socket", body=str(folder).encode()))[1] == b"NotCapable"


async def test_what_a_handler_throws_is_told_with_its_place(engine: Engine) -> None:
    status, body, answer = await call(engine, "throw")
    assert (status, answer.failed) == (500, True)
    assert b"Error: on purpose" in body
    assert b"main.ts:" in body
    assert b"file://" not in body
    assert b"it returned nothing" in (await call(engine, "nothing"))[1]


async def test_printing_is_bounded_and_a_stray_rejection_ends_nothing(engine: Engine) -> None:
    calls = Calls()
    assert (await call(engine, "print", calls=calls))[0] == 200
    await calls.closed.wait()
    lines = [line for op, args in calls.asked if op == "log" for line in args["lines"]]
    assert len(lines) == 100
    assert {len(line["message"]) for line in lines} == {10_000}
    assert (await call(engine, "stray"))[0] == 200
    assert (await call(engine, "x"))[0] == 200


async def test_promises_go_on_after_the_answer_and_then_the_call_is_over(engine: Engine) -> None:
    calls = Calls()
    _, _, answer = await call(engine, "later", calls=calls)
    assert answer.pending
    assert not calls.closed.is_set()
    with anyio.fail_after(10):
        await calls.closed.wait()
    assert [op for op, _ in calls.asked] == ["log", "idempotency.claim"] or [op for op, _ in calls.asked] == [
        "idempotency.claim",
        "log",
    ]
    stolen = Calls()
    await call(engine, "leak", calls=stolen)
    await anyio.sleep(0.5)
    assert stolen.asked == []


async def test_one_that_spins_is_ended_and_the_next_call_runs(engine: Engine) -> None:
    other, gate = program("other", timeout=20), anyio.Event()
    waiting = Calls(gate)
    async with anyio.create_task_group() as group:
        results: list[int] = []

        async def beside() -> None:
            results.append((await call(engine, "ask", other, calls=waiting))[0])

        group.start_soon(beside)
        await waiting.waits.wait()
        with pytest.raises(AppError) as caught:
            await call(engine, "spin")
        gate.set()
    assert caught.value.code == "FUNCTION_TIMEOUT"
    assert "without ever awaiting" in caught.value.message
    assert results == [200]
    assert (await call(engine, "x"))[0] == 200


async def test_one_that_spins_on_after_its_time_is_ended_as_well(engine: Engine) -> None:
    with pytest.raises(AppError) as caught:
        await call(engine, "spin", program("left", timeout=0.3))
    assert caught.value.code == "FUNCTION_TIMEOUT"
    isolates = engine._apps["app_000000000000"].isolates
    with anyio.fail_after(20):
        while "left" in isolates:  # noqa: ASYNC110 - the watch tells nobody
            await anyio.sleep(0.05)
    assert (await call(engine, "x"))[0] == 200


async def test_one_that_waits_for_ever_gets_its_time_and_no_more(engine: Engine) -> None:
    for path in ("hang", "stream"):
        with pytest.raises(AppError) as caught:
            await call(engine, path, program(timeout=0.4))
        assert caught.value.code == "FUNCTION_TIMEOUT"
    assert (await call(engine, "x"))[0] == 200


@pytest.mark.parametrize("path", ["heap", "awaiting", "buffers", "block", "push"])
async def test_one_that_takes_all_memory_ends_alone(engine: Engine, path: str) -> None:
    other, gate = program("other", timeout=20), anyio.Event()
    waiting = Calls(gate)
    results: list[int] = []

    async def beside() -> None:
        results.append((await call(engine, "ask", other, calls=waiting))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(beside)
        await waiting.waits.wait()
        with pytest.raises(AppError) as caught:
            await call(engine, path)
        gate.set()
    assert (caught.value.code, results) == ("FUNCTION_MEMORY", [200])
    assert (await call(engine, "x"))[0] == 200


async def test_a_read_is_repeated_when_the_process_dies_and_a_write_is_not(engine: Engine) -> None:
    victim = program("victim", timeout=20)
    answers: list[int] = []
    errors: list[str] = []
    waiting = [Calls(anyio.Event()), Calls(anyio.Event())]

    async def beside(method: str, calls: Calls) -> None:
        try:
            answers.append((await call(engine, "ask", victim, method, calls=calls))[0])
        except AppError as error:
            errors.append(error.code)

    async with anyio.create_task_group() as group:
        for method, calls in zip(("GET", "POST"), waiting, strict=True):
            group.start_soon(beside, method, calls)
            await calls.waits.wait()
        process = engine._apps["app_000000000000"].process
        assert process is not None
        assert process._process is not None
        process._process.kill()
    assert answers == [200]
    assert errors == ["EXTERNAL_NETWORK_ERROR"]


async def test_more_calls_than_may_run_wait_and_then_are_refused(engine: Engine) -> None:
    codes: list[str] = []
    gate = anyio.Event()

    async def one(calls: Calls) -> None:
        try:
            codes.append(str((await call(engine, "ask", calls=calls))[0]))
        except AppError as error:
            codes.append(f"{error.code} {error.retry_after}")

    running = [Calls(gate) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for calls in running:
            group.start_soon(one, calls)
            await calls.waits.wait()
        for _ in range(5):
            group.start_soon(one, Calls())
        with anyio.fail_after(10):
            while len(codes) < 3:  # noqa: ASYNC110 the refused ones say nothing else
                await anyio.sleep(0.01)
        gate.set()
    assert sorted(codes) == ["200"] * 5 + ["FUNCTION_BUSY 5"] * 3


THIEF = """
const folder = new URL(".", import.meta.url).pathname;
self.postMessage({ ready: true, id: "abc" });
self.postMessage({ id: 1, pong: [] });
export async function handler(request: Request) {
  self.postMessage({ id: "abc" });
  const reached = [];
  for (const path of await request.json()) {
    for (const act of [Deno.removeSync, Deno.statSync, (p: string) => Deno.listen({ transport: "unix", path: p })]) {
      try { act(path); reached.push(path); } catch { /* closed */ }
    }
  }
  return Response.json(reached);
}
"""


async def test_no_other_isolates_sockets_and_files_are_reached_and_no_message_ends_the_engine(engine: Engine) -> None:
    assert (await call(engine, "x"))[0] == 200
    found = [str(path) for path in engine.folder.rglob("*")]
    assert any(path.endswith(".s") for path in found)
    # The sockets on which we listen are gone once their visitor is in.
    assert not any(path.endswith(".h") for path in found)
    status, body = (await call(engine, "x", program("thief", THIEF), body=json.dumps(found).encode()))[:2]
    assert (status, body) == (200, b"[]")
    assert (await call(engine, "x"))[0] == 200


async def test_an_app_may_have_many_functions(engine: Engine) -> None:
    for number in range(12):
        made = Program("many", f"f{number}", f"export const handler = () => new Response('{number}')")
        assert (await call(engine, "x", made))[1] == str(number).encode()
    await engine.forget("many")


async def test_one_that_ends_its_process_while_loading_is_not_tried_by_every_call(engine: Engine) -> None:
    storm = program("storm", "import process from 'node:process'; process.abort(); export const handler = 1")
    messages: list[str] = []

    async def one() -> None:
        with pytest.raises(AppError) as caught:
            await call(engine, "x", storm)
        messages.append(caught.value.message)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
    assert len(messages) == 3
    assert len(set(messages)) == 1


async def test_what_a_handler_says_in_our_name_is_not_believed(engine: Engine) -> None:
    forged = program(
        "forged",
        "export const handler = () => new Response('x', { headers: { 'x-brolly-failed': '1', 'x-brolly-lines': 'e30=',"
        " 'content-encoding': 'br' } })",
    )
    _, body, answer = await call(engine, "x", forged)
    assert (body, answer.failed, answer.lines) == (b"x", False, [])
    assert ("content-encoding", "br") in answer.headers


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("export const other = 1", "exports no handler"),
        ("export const handler = 1", "exports no handler"),
        ("throw new Error('at the top'); export const handler = () => 1", "at the top"),
        ("const x = ;", "Expression expected"),
    ],
)
async def test_what_cannot_be_loaded_is_said_and_replaces_nothing(engine: Engine, code: str, said: str) -> None:
    with pytest.raises(AppError) as caught:
        await engine.load(program(code=code))
    assert caught.value.code == "VALIDATION_INVALID_SCHEMA"
    assert said in caught.value.message
    assert (await call(engine, "x"))[0] == 200


async def test_default_exports_are_handlers_too(engine: Engine) -> None:
    plain = "export default (request, ctx) => new Response('default')"
    fetching = "export default { name: 'f', fetch(request, ctx) { return new Response(this.name); } }"
    assert (await call(engine, "x", program("plain", plain)))[1] == b"default"
    assert (await call(engine, "x", program("fetching", fetching)))[1] == b"f"
