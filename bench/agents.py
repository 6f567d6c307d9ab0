"""What a coding agent pays: tokens of the list of tools, calls of a scaffold, and the time of the least calls."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import httpx
from anyio import to_thread

from bench.clients import HttpClient, StdioClient, http_client, message, stdio_client
from bench.figures import held, milliseconds, times
from bench.mcp_rivals import MCP_RIVALS, ask, listed, tokens, version
from bench.program import Program, command, data_folder, environment, serving
from bench.runner import Run
from bench.stopwatch import in_turn
from bench.tables import Table
from brolly.demo.blog import ALICE, BOB, POSTS, SCHEMA

WHOLE, FIVE = 20_000, 6_000
GROUPS = "manage_schema,manage_rls,select_rows,insert_row,manage_auth_users"
LIST, CALL, STREAM = "`tools/list`", "`list_regions`", "`list_regions`, asking for progress"
HTTP, STDIO = "HTTP", "stdio"


async def measure(run: Run) -> Sequence[Table]:
    """Sizes first, then the scaffold, then times."""
    with data_folder() as home, serving(home) as program:
        async with http_client(program) as client:
            scaffold, app_id = await _scaffold(client, program)
            sizes = await _sizes(run, program, app_id)
            run.begin("the least calls", rounds := run.size(400, 30))
            async with stdio_client(program) as stdio:
                found = await in_turn(run, _calls(client, stdio), rounds, run.size(20, 5))
    least = found[f"{CALL}, {HTTP}"].wall.median
    rows = [[name, *one.wall.spread(milliseconds), times(one.wall.median / least)] for name, one in found.items()]
    return [sizes, scaffold, Table(["call", "least", "median", "largest", "against the second"], rows)]


def _calls(client: HttpClient, stdio: StdioClient) -> dict[str, Any]:
    wanted = {
        LIST: message(1, "tools/list"),
        CALL: message(1, "tools/call", name="list_regions", arguments={}),
        STREAM: message(1, "tools/call", name="list_regions", arguments={}, _meta={"progressToken": 1}),
    }

    def over(send: Any, content: bytes) -> Any:
        async def call() -> None:
            assert "result" in await send(content)

        return call

    return {
        f"{name}, {way}": over(send, content)
        for name, content in wanted.items()
        for way, send in ((HTTP, client.post), (STDIO, stdio.send))
    }


def _text(tools: Sequence[Any]) -> str:
    return json.dumps({"tools": tools}, separators=(",", ":"), ensure_ascii=False)


def _size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


async def _sizes(run: Run, program: Program, app_id: str) -> Table:
    ours = {
        "Brolly, whole": (),
        "Brolly, read-only": ("--read-only",),
        "Brolly, one app": ("--app", app_id),
        "Brolly, one app, five tools": ("--app", app_id, "--tools", GROUPS),
    }
    run.begin("lists of tools", len(ours) + len(MCP_RIVALS))
    lists: dict[str, list[Any]] = {}
    for name, words in ours.items():
        told = command("mcp", "--home", str(program.home), *words)
        lists[name] = await to_thread.run_sync(ask, told, environment())
        run.step()
    for rival in MCP_RIVALS:
        lists[f"{rival.name} {version(rival)}{', ' + rival.note if rival.note else ''}"] = await to_thread.run_sync(
            listed, rival
        )
        run.step()
    texts = [_text(tools) for tools in lists.values()]
    rows = [
        [name, str(len(tools)), f"{len(text):,}", f"{count:,}", f"{len(text) // 4:,}", f"{len(text) / len(tools):.0f}"]
        for (name, tools), text, count in zip(lists.items(), texts, tokens(texts), strict=True)
    ]
    whole, five = len(texts[0]), len(texts[3])
    note = (
        f"Compact JSON of the answer. Goals: the whole at most {WHOLE:,} characters: {held(whole <= WHOLE)}; one app "
        f"with five tools ({GROUPS.replace(',', ', ')}) at most {FIVE:,}: {held(five <= FIVE)}. The others are started "
        "over stdio with made-up credentials, and list what they list without a network."
    )
    return Table(["server", "tools", "characters", "tokens (o200k)", "characters / 4", "per tool"], rows, [note])


async def _scaffold(client: HttpClient, program: Program) -> tuple[Table, str]:
    """A blog with tables, policies, rows and a page, by the calls of the workflow that agents are given."""
    counted: list[tuple[str, int, int]] = []
    app: dict[str, str] = {}

    async def call(tool: str, **arguments: Any) -> Any:
        answer = await client.call(tool, **app, **arguments)
        counted.append((tool, _size({**app, **arguments}), _size(answer)))
        return answer

    made = await call("init_app", name="blog")
    app["app_id"] = made["app_id"]
    for action in ("dry_run", "apply"):
        await call("manage_schema", action=action, schema=SCHEMA)
    for table, column, more in (
        ("users", "id", {}),
        ("posts", "author_id", {"public_read_column": "published"}),
        ("comments", "author_id", {}),
    ):
        await call("manage_rls", action="create_user_isolation", table_name=table, user_column=column, **more)
    people = [{"id": ALICE, "name": "Alice"}, {"id": BOB, "name": "Bob"}]
    await call("seed_database", table="users", rows=people)
    await call("seed_database", table="posts", rows=list(POSTS))
    await call("select_rows", table="posts", as_role="anon")
    await call("select_rows", table="posts", as_role="user", as_user=ALICE)
    deployment = await call("create_frontend_deployment")
    await _send(deployment["uploadUrl"], program)
    done = await call("manage_frontend", action="start_deployment", deployment_id=deployment["deployment_id"])
    assert done["status"] == "READY"
    rows = [[f"`{tool}`", f"{sent:,}", f"{got:,}"] for tool, sent, got in counted]
    sent, got = sum(one[1] for one in counted), sum(one[2] for one in counted)
    rows.append([f"{len(counted)} calls", f"{sent:,}", f"{got:,}"])
    note = (
        f"From the first call to the live site: {len(counted)} calls, {sent + got:,} characters both ways, and one PUT."
    )
    return Table(["call", "characters sent", "characters answered"], rows, [note]), app["app_id"]


async def _send(url: str, program: Program) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.html", "<h1>Blog</h1>")
    async with httpx.AsyncClient(trust_env=False) as http:
        place = f"{program.url}/{url.split('://', 1)[-1].split('/', 1)[-1]}"
        (await http.put(place, content=out.getvalue())).raise_for_status()
