"""Looks at a function's source before it is deployed: what the compiler finds, with file, line and column."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from brolly.core.errors import AppError
from brolly.engines.deno.process import Bounds, environment, find_deno

CHECK_SECONDS = 60.0
_MOST = 20
_BUSY: dict[Path, int] = {}
"""Folders in use, since two deployments of the same code share one."""
_CONFIG = (
    '{"compilerOptions": {"strict": false, "noImplicitAny": false, "useUnknownInCatchVariables": false, '
    '"noImplicitOverride": false, "lib": ["deno.worker", "deno.unstable"]}}'
)
_PLACE = re.compile(r"^\s*at (file://\S+):(\d+):(\d+)$")
_TYPE_ERROR = re.compile(r"^(?:(TS\d+) \[ERROR\]: |error: (?:Uncaught )?(?:\w*Error: )?)(.*)$")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. ``code`` is TypeScript's, or empty; lines and columns count from 1."""

    message: str
    code: str = ""
    line: int = 0
    column: int = 0


async def check(name: str, code: str, bounds: Bounds) -> list[Diagnostic]:
    """What the compiler has against the module: syntax, imports that are not found, types (not strictly).

    Fetches what the module imports, so that its first call finds it. Empty when there is nothing.
    """
    async with _laid_out(name, code, bounds) as (source, config):
        folder = source.parent
        line = [find_deno(), "check", "--quiet", "--no-lock", "--node-modules-dir=none", "--allow-import"]
        try:
            with anyio.fail_after(CHECK_SECONDS):
                done = await anyio.run_process(
                    ["/bin/sh", "-c", 'exec nice -n 5 "$@"', "sh", *line, "--config", str(config), str(source)],
                    check=False,
                    env=environment(bounds),
                    cwd=folder,
                )
        except TimeoutError:
            raise AppError(
                "FUNCTION_TIMEOUT",
                f"Compiling {name} took more than {CHECK_SECONDS:.0f} seconds.",
                remediation="Import less, or repeat deploy_function when what it imports can be fetched faster.",
            ) from None
        if done.returncode == 0:
            return []
        return list(_findings(done.stderr.decode(errors="replace"), source.as_uri()))[:_MOST] or [
            Diagnostic("The compiler ended without a word.")
        ]


@asynccontextmanager
async def _laid_out(name: str, code: str, bounds: Bounds) -> AsyncGenerator[tuple[Path, Path]]:
    """The source and its settings as files. Named after the content: Deno remembers what it found by the name."""
    digest = hashlib.sha256(f"{name}\0{code}".encode()).hexdigest()[:24]
    folder = bounds.cache / "check" / digest
    _BUSY[folder] = _BUSY.get(folder, 0) + 1
    try:
        await anyio.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        source, config = folder / f"{name}.ts", folder / "deno.json"
        await anyio.Path(source).write_text(code, "utf-8")
        await anyio.Path(config).write_text(_CONFIG)
        yield source, config
    finally:
        _BUSY[folder] -= 1
        if not _BUSY[folder]:
            del _BUSY[folder]
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, folder, True)


def _findings(text: str, uri: str) -> Iterator[Diagnostic]:
    """Deno prints each as its message, the source line, a mark, and the place."""
    open_: Diagnostic | None = None
    for line in text.splitlines():
        if found := _TYPE_ERROR.match(line):
            if open_ is not None:
                yield open_
            message = found.group(2).replace(uri, uri.rsplit("/", 1)[1])
            open_ = None if message.startswith("Type checking failed") else Diagnostic(message, found.group(1) or "")
        elif open_ is not None and (place := _PLACE.match(line)):
            at = (int(place.group(2)), int(place.group(3))) if place.group(1) == uri else (0, 0)
            yield Diagnostic(open_.message, open_.code, *at)
            open_ = None
    if open_ is not None:
        yield open_
