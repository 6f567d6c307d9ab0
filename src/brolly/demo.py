"""``brolly demo``: a real MCP client over stdio builds a secured blog and shows who sees what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import click
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from brolly.core.settings import load_settings

_START_SECONDS = 3.0  # until a server that was just started can be found
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"

SCHEMA: dict[str, Any] = {
    "tables": {
        "users": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True},
                "name": {"type": "text", "nullable": False},
            }
        },
        "posts": {
            "columns": {
                "id": {"type": "bigserial", "primaryKey": True},
                "author_id": {"type": "uuid", "nullable": False, "references": "users.id"},
                "title": {"type": "text", "nullable": False},
                "published": {"type": "boolean", "nullable": False, "default": "false"},
                "created_at": {"type": "timestamptz", "nullable": False, "default": "now()"},
            },
            "indexes": {"posts_author": {"columns": ["author_id"]}},
        },
        "comments": {
            "columns": {
                "id": {"type": "bigserial", "primaryKey": True},
                "post_id": {
                    "type": "bigint",
                    "nullable": False,
                    "references": {"table": "posts", "column": "id", "onDelete": "CASCADE"},
                },
                "author_id": {"type": "uuid", "nullable": False, "references": "users.id"},
                "body": {"type": "text", "nullable": False},
            },
            "checks": {"comments_body_short": "length(body) <= 1000"},
        },
    }
}

POSTS = (
    {"author_id": ALICE, "title": "Alice: hello world", "published": True},
    {"author_id": ALICE, "title": "Alice: secret draft", "published": False},
    {"author_id": BOB, "title": "Bob: first post", "published": True},
    {"author_id": BOB, "title": "Bob: unfinished draft", "published": False},
)
READERS: Mapping[str, dict[str, str]] = {
    "anonymous": {"as_role": "anon"},
    "Alice": {"as_role": "user", "as_user": ALICE},
    "Bob": {"as_role": "user", "as_user": BOB},
    "service key": {},
}
EXPECTED: Mapping[str, tuple[int, ...]] = {
    "anonymous": (0, 2),
    "Alice": (0, 1, 2),
    "Bob": (0, 2, 3),
    "service key": (0, 1, 2, 3),
}


class _Screen(Console):
    """The screen; a reader that is gone is told as such, where rich would end the process in midst of its tasks."""

    def on_broken_pipe(self) -> None:
        """Pass it on."""
        raise BrokenPipeError


class DemoFailed(Exception):  # noqa: N818 - what the person reads
    """Something was not as it should be."""


@dataclass
class Demo:
    """One run: the MCP session, the screen, the app it made."""

    session: Any
    screen: Console
    app_id: str = ""
    calls: int = 0
    started: float = field(default_factory=time.perf_counter)

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """The parsed result of a tool call; raises ``DemoFailed`` with the server's words."""
        failed, body = await self.attempt(tool, **arguments)
        if failed:
            raise DemoFailed(f"{tool}: {body['error']['message']} {body['error']['remediation']}")
        return body

    async def attempt(self, tool: str, /, **arguments: Any) -> tuple[bool, Any]:
        """Whether the call was refused, and what it answered."""
        self.calls += 1
        if self.app_id and "app_id" not in arguments:
            arguments["app_id"] = self.app_id
        result = await self.session.call_tool(tool, arguments)
        return bool(result.is_error), json.loads(result.content[0].text)

    def step(self, title: str, shown: str) -> None:
        """Announce a step, with the tool call that it makes."""
        self.screen.print(f"\n[bold cyan]▸[/] [bold]{title}[/]  [dim]{shown}[/]")

    def expect(self, holds: bool, what: str) -> None:
        """Print the fact with a tick; stop when it does not hold."""
        if not holds:
            raise DemoFailed(f"expected: {what}")
        self.screen.print(f"  [green]✓[/] {what}")


async def _create(demo: Demo, name: str) -> None:
    demo.step("Create an app", f'init_app name="{name}"')
    begun = time.perf_counter()
    app = await demo.call("init_app", name=name)
    took = (time.perf_counter() - begun) * 1000
    demo.app_id = app["app_id"]
    demo.expect(app["provisioning_status"] == "ready", f"{app['app_id']} is ready after {took:.0f} ms")
    demo.screen.print(f"  [dim]API {app['api_base']}[/]")


async def _build(demo: Demo) -> None:
    demo.step("Preview the tables", "manage_schema action=dry_run")
    plan = await demo.call("manage_schema", action="dry_run", schema=SCHEMA)
    table = Table("#", "what would be done", box=None, padding=(0, 1), show_header=False)
    for number, statement in enumerate(plan["statements"], 1):
        table.add_row(f"[dim]{number}[/]", statement["description"])
    demo.screen.print(table)
    before = await demo.call("manage_schema", action="get")
    demo.expect(not before["schema"]["tables"], "nothing was changed yet")
    demo.step("Create them", "manage_schema action=apply")
    done = await demo.call("manage_schema", action="apply", schema=SCHEMA, name="blog")
    demo.expect(done["applied"] == plan["applied"], f"{done['applied']} statements in one transaction")
    again = await demo.call("manage_schema", action="apply", schema=SCHEMA)
    demo.expect(again["applied"] == 0, "applying the same document again changes nothing")


async def _secure(demo: Demo) -> None:
    demo.step("Secure them", "manage_rls action=create_user_isolation …")
    for table, column, public in (
        ("users", "id", None),
        ("posts", "author_id", "published"),
        ("comments", "author_id", None),
    ):
        arguments = {"table_name": table, "user_column": column} | ({"public_read_column": public} if public else {})
        await demo.call("manage_rls", action="create_user_isolation", **arguments)
        rule = f"each user sees their own rows of {table}" + (", everybody the published ones" if public else "")
        demo.screen.print(f"  [green]✓[/] {rule}")
    expression = "exists (select 1 from posts p where p.id = post_id and p.published)"
    await demo.call(
        "manage_rls", action="create_policy", table_name="comments", policy_name="comments_of_published_posts",
        command="SELECT", using_expression=expression,
    )  # fmt: skip
    demo.screen.print("  [green]✓[/] everybody reads the comments of published posts")


async def _seed(demo: Demo) -> list[str]:
    demo.step("Put rows in", "seed_database")
    users = [{"id": ALICE, "name": "Alice"}, {"id": BOB, "name": "Bob"}]
    await demo.call("seed_database", table="users", rows=users)
    posts = await demo.call("seed_database", table="posts", rows=list(POSTS))
    ids = [row["id"] for row in posts["rows"]]
    comments = [{"post_id": post, "author_id": BOB, "body": "Bob was here"} for post in ids[:2]]
    await demo.call("seed_database", table="comments", rows=comments)
    demo.expect(len(ids) == len(POSTS), "2 users, 4 posts (2 of them drafts), 2 comments")
    return ids


async def _read(demo: Demo) -> None:
    demo.step("Who sees which post", "select_rows table=posts as_role=… as_user=…")
    seen: dict[str, list[str]] = {}
    for reader, role in READERS.items():
        answer = await demo.call("select_rows", table="posts", select="title", order="id.asc", **role)
        seen[reader] = [row["title"] for row in answer["rows"]]
    table = Table("post", *READERS, title_justify="left")
    for post in POSTS:
        marks = ["[green]sees it[/]" if post["title"] in seen[reader] else "[red]hidden[/]" for reader in READERS]
        table.add_row(str(post["title"]), *marks)
    demo.screen.print(table)
    for reader, numbers in EXPECTED.items():
        demo.expect(seen[reader] == [POSTS[n]["title"] for n in numbers], f"{reader} sees {len(numbers)} of 4 posts")


async def _attack(demo: Demo, post_ids: list[str]) -> None:
    demo.step("Alice tries to read Bob's draft by its id", "select_rows filters={id: eq.…}")
    alice, bobs_draft = READERS["Alice"], post_ids[3]
    answer = await demo.call("select_rows", table="posts", filters={"id": f"eq.{bobs_draft}"}, **alice)
    demo.expect(answer["rows"] == [], "the draft does not exist for her")

    demo.step("Alice tries to write a post in Bob's name", "insert_row data={author_id: Bob, …}")
    written = await demo.call("insert_row", table="posts", data={"author_id": BOB, "title": "Alice: forged"}, **alice)
    demo.expect(written["row"]["author_id"] == ALICE, "the row is hers: the database overwrites the author")

    demo.step("Somebody who is not signed in tries to write", "insert_row as_role=anon")
    refused, body = await demo.attempt(
        "insert_row", table="posts", data={"author_id": BOB, "title": "spam"}, as_role="anon"
    )
    demo.expect(refused, f"refused: {body.get('error', {}).get('code')}")
    demo.screen.print(Syntax(json.dumps(body, indent=2), "json", background_color="default", word_wrap=True))


async def _trail(demo: Demo) -> None:
    demo.step("What the owner can look up afterwards", "query_audit_logs")
    log = await demo.call("query_audit_logs", limit=5)
    table = Table("event", "outcome", "ms", box=None, padding=(0, 1))
    for row in log["logs"]:
        outcome = "[green]ok[/]" if row["success"] else f"[red]{row['event_data'].get('code')}[/]"
        table.add_row(row["event_type"], outcome, str(row["event_data"].get("duration_ms", "")))
    demo.screen.print(table)
    demo.expect(log["total"] >= demo.calls - 2, f"every call is in the log ({log['total']} rows)")


def _connect_help(screen: Console) -> None:
    stdio = {"mcpServers": {"brolly": {"command": "brolly", "args": ["mcp"]}}}
    screen.print(
        Panel.fit(
            "[bold]Claude Code[/]   claude mcp add brolly -- brolly mcp\n"
            "[bold]Gemini CLI[/]    gemini mcp add -s user brolly brolly mcp\n"
            f"[bold]Cursor[/]        ~/.cursor/mcp.json: {json.dumps(stdio)}\n\n"
            "[dim]If the command is not on the PATH, write "
            f"{shutil.which('brolly') or Path(sys.argv[0]).absolute()} in its place.[/]",
            title="Point your agent at it",
            border_style="green",
        )
    )


async def _steps(demo: Demo, name: str) -> str | None:
    """Every step in turn; what went wrong, or None. Not raised: the client's task groups would wrap it."""
    try:
        await _all_steps(demo, name)
    except DemoFailed as error:
        return str(error)
    return None


async def _all_steps(demo: Demo, name: str) -> None:
    tools = (await demo.session.list_tools()).tools
    size = sum(len(t.model_dump_json(by_alias=True, exclude_none=True)) for t in tools)
    demo.screen.print(f"[green]✓[/] connected over stdio: {len(tools)} tools in {size:,} characters")
    await _create(demo, name)
    await _build(demo)
    await _secure(demo)
    ids = await _seed(demo)
    await _read(demo)
    await _attack(demo, ids)
    await _trail(demo)


async def run_demo(home: Path, screen: Console, name: str) -> str | None:
    """Every step against a server on that data folder, which ``brolly mcp`` starts; what went wrong, or None."""
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(command=sys.executable, args=["-m", "brolly", "mcp"], env={"BROLLY_HOME": str(home)})
    # What it says on stderr would tear the spinner; what matters is in its answers.
    with Path(os.devnull).open("w") as unheard:  # noqa: ASYNC230 - the null device blocks nobody
        return await _with_client(stdio_client(server, errlog=unheard), screen, name)


async def _with_client(transport: Any, screen: Console, name: str) -> str | None:
    from mcp import Client, MCPError

    spinner = "dots" if screen.encoding.startswith("utf") else "line"
    async with AsyncExitStack() as stack:
        with screen.status("Starting a server (the first start creates the database cluster)…", spinner=spinner):
            try:
                session = await stack.enter_async_context(Client(transport))
            except MCPError as error:
                return str(error)
        return await _steps(Demo(session, screen), name)


@dataclass
class _Run:
    """A run that a signal ends in good order: a closed terminal, the system going down, Ctrl-C."""

    home: Path
    keep: bool
    screen: Console
    failure: str | None = None
    signal: int = 0

    async def work(self, name: str) -> None:
        """The steps, then clearing up, which no signal disturbs."""
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                await group.start(self._listen, scope)
                try:
                    self.failure = await run_demo(self.home, self.screen, name)
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._clear_up()
            group.cancel_scope.cancel()

    async def _listen(
        self, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        wanted = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            wanted.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            async for number in signals:
                self.signal = self.signal or number
                scope.cancel()

    async def _clear_up(self) -> None:
        if self.keep:
            return
        from brolly.daemon import stop_server
        from brolly.pg.embedded import remove_data_folder

        ended = await stop_server(self.home)
        if ended is None and self.signal:
            # It may just have been started, before it holds anything by which it could be found.
            await anyio.sleep(_START_SECONDS)
            await stop_server(self.home)
        remove_data_folder(self.home)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Use your own data folder and leave the app and the server there.")
def demo(keep: bool) -> None:
    """Watch an MCP client build a secured blog (throw-away data unless --keep)."""
    screen = _Screen(highlight=False)
    screen.rule("[bold]Brolly demo[/]")
    home = load_settings().home if keep else Path(tempfile.mkdtemp(prefix="brolly-demo-"))
    done = _Run(home, keep, screen)
    begun = time.perf_counter()
    anyio.run(done.work, f"demo-blog-{int(time.time())}" if keep else "demo-blog")
    # The terminal may be gone.
    with suppress(OSError) if done.signal else nullcontext():
        _say_end(done, time.perf_counter() - begun)
    if done.signal:
        raise SystemExit(128 + done.signal)
    if done.failure is not None:
        raise SystemExit(1)


def _say_end(done: _Run, seconds: float) -> None:
    screen = done.screen
    if done.keep:
        screen.print(f"\n[dim]The server goes on; data folder {done.home}. Stop it with: brolly down[/]")
    if done.signal:
        screen.print("Ended.")
    elif done.failure is not None:
        screen.print(f"[bold red]✗[/] {escape(done.failure)}", style="bold red")
    else:
        screen.print(f"\n[bold green]Done in {seconds:.1f} s.[/]")
        _connect_help(screen)
