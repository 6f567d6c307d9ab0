"""``brolly demo``: the scenes in turn against a server of their own, and a clean end whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import click
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from brolly.core.settings import PREFIX, Settings, load_settings
from brolly.demo import blog, files, functions, knowledge, people, site, trail
from brolly.demo.stage import Demo, DemoFailed, Screen

_START_SECONDS = 3.0  # until a server that was just started can be found


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
    await blog.play(demo, name)
    await people.play(demo)
    await files.play(demo)
    await functions.play(demo)
    await knowledge.play(demo)
    await site.play(demo)
    await trail.play(demo)


def _environment(home: Path) -> dict[str, str]:
    """The server's settings: that folder, and the bucket if one is set."""
    settings = load_settings(home=home)
    given = {f.name: getattr(settings, f.name) for f in fields(Settings) if f.name.startswith("s3_")}
    bucket = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items() if value != ""}
    return {"BROLLY_HOME": str(home), **(bucket if settings.s3_bucket else {})}


async def run_demo(demo: Demo, name: str) -> str | None:
    """Every step against a server on that data folder, which ``brolly mcp`` starts; what went wrong, or None."""
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(command=sys.executable, args=["-m", "brolly", "mcp"], env=_environment(demo.home))
    # What it says on stderr would tear the spinner; what matters is in its answers.
    with Path(os.devnull).open("w") as unheard:  # noqa: ASYNC230 - the null device blocks nobody
        return await _with_client(stdio_client(server, errlog=unheard), demo, name)


async def _with_client(transport: Any, demo: Demo, name: str) -> str | None:
    from mcp import Client, MCPError

    screen = demo.screen
    spinner = "dots" if screen.encoding.startswith("utf") else "line"
    async with AsyncExitStack() as stack:
        with screen.status("Starting a server (the first start creates the database cluster)…", spinner=spinner):
            try:
                demo.session = await stack.enter_async_context(Client(transport))
            except MCPError as error:
                return str(error)
        return await _steps(demo, name)


@dataclass
class _Run:
    """A run that a signal ends in good order: a closed terminal, the system going down, Ctrl-C."""

    home: Path
    keep: bool
    screen: Console
    failure: str | None = None
    signal: int = 0
    address: str = ""
    """The server and the app that are kept, as a shell sets them."""

    async def work(self, name: str) -> None:
        """The steps, then clearing up, which no signal disturbs."""
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                await group.start(self._listen, scope)
                try:
                    demo = Demo(None, self.screen, self.home)
                    self.failure = await run_demo(demo, name)
                    self.address = f"API={demo.server} APP={demo.app_id}" if demo.server else ""
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
    screen = Screen(highlight=False)
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
        if done.address:
            screen.print(f"[dim]Try it with curl, as the README does:[/] {done.address}")
    if done.signal:
        screen.print("Ended.")
    elif done.failure is not None:
        screen.print(f"[bold red]✗[/] {escape(done.failure)}", style="bold red")
    else:
        screen.print(f"\n[bold green]Done in {seconds:.1f} s.[/]")
        _connect_help(screen)
