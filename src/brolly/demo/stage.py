"""What a run of the demo has in hand: the MCP session, the screen, the app; and how its scenes show and check."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from brolly.core.untrusted import parsed


class Screen(Console):
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
    home: Path
    """The server's data folder."""
    app_id: str = ""
    server: str = ""
    """Where it listens."""
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
        return bool(result.is_error), parsed(result.content[0].text)

    def step(self, title: str, shown: str) -> None:
        """Announce a step, with the tool call that it makes."""
        self.screen.print(f"\n[bold cyan]▸[/] [bold]{title}[/]  [dim]{shown}[/]")

    def expect(self, holds: bool, what: str) -> None:
        """Print the fact with a tick; stop when it does not hold."""
        if not holds:
            raise DemoFailed(f"expected: {what}")
        self.screen.print(f"  [green]✓[/] {what}")
