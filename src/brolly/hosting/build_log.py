"""What a build prints, on its way into Postgres: bounded, and without the values of secrets."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

import anyio

from brolly.deps import Deps
from brolly.hosting.builds import LONGEST_LINE, MOST_LINES, Build, write_lines

WRITE_SECONDS = 0.3
LAST_LINES = 200
"""What is kept of the end when there is no room for the middle: errors stand there."""
_SHORTEST_SECRET = 6
_PUBLIC = re.compile(r"(VITE|NEXT_PUBLIC|PUBLIC|NUXT_PUBLIC|REACT_APP|GATSBY)_")
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]")


def secrets_of(environment: Iterable[tuple[str, str]]) -> list[str]:
    """Values that must not be shown: of variables that are not made for pages anyway."""
    found = {value for name, value in environment if not _PUBLIC.match(name) and len(value) >= _SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)


class BuildLog:
    """Lines of one build. ``say`` takes them; ``keep_writing`` brings them into Postgres a few times a second."""

    def __init__(self, deps: Deps, build: Build, secrets: Iterable[str] = ()) -> None:
        self._deps, self._build, self._secrets = deps, build, list(secrets)
        self._waiting: list[str] = []
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._written, self._left_out = 0, 0

    def say(self, line: str) -> None:
        """Take a line."""
        for secret in self._secrets:
            line = line.replace(secret, "***")
        line = _CONTROL.sub("", line.rpartition("\r")[2] or line.rstrip("\r"))[:LONGEST_LINE]
        line = line.encode("utf-8", "replace").decode()
        if self._written + len(self._waiting) < MOST_LINES:
            self._waiting.append(line)
        elif len(self._last) == LAST_LINES:
            self._left_out += 1
        self._last.append(line)

    @property
    def tail(self) -> str:
        """The last lines that say something, for an error's text."""
        return "\n".join([line for line in self._last if line.strip()][-15:])[-1500:]

    async def keep_writing(self) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what waits."""
        lines, self._waiting = self._waiting, []
        if lines:
            first, self._written = self._written + 1, self._written + len(lines)
            await write_lines(self._deps, self._build, first, lines)

    async def finish(self) -> None:
        """The build is over: the end is kept in any case."""
        await self.write()
        if self._written >= MOST_LINES and self._last:
            note = [f"… {self._left_out} lines were not kept …"] if self._left_out else []
            await write_lines(self._deps, self._build, self._written + 1, [*note, *self._last])
