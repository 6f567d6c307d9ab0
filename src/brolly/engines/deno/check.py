"""Looks at a function's source before it is deployed: what the compiler finds, with file, line and column."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from brolly.core.errors import AppError
from brolly.engines.deno.place import Place, find_place
from brolly.engines.deno.process import Bounds, allow_import, bounded, environment, prepare_cache

CHECK_SECONDS = 60.0
HEAP_MB = 1024
MOST_DATA_KB = 3 * 1024 * 1024
"""Not for processes that run functions: V8 counts most of a gigabyte for each isolate, and uses little of it."""
MOST_SAID = 4 * 1024 * 1024
_AT_WORK = anyio.Semaphore(2)
"""Compiling takes a processor and some hundred megabytes."""
_ONE_FILE = "a function is one file, and imports npm:, jsr: and https: modules."
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
    place = await anyio.to_thread.run_sync(find_place, bounds.cache)
    async with _AT_WORK, _laid_out(name, code, place) as (source, config):
        try:
            with anyio.fail_after(CHECK_SECONDS):
                # The compiler reads any file, and what it says would show it.
                if outside := await _outside(source, config, bounds, place):
                    return outside
                found, _, said = await _deno(["check", "--quiet"], source, config, bounds, place)
        except TimeoutError:
            raise AppError(
                "FUNCTION_TIMEOUT",
                f"Compiling {name} took more than {CHECK_SECONDS:.0f} seconds.",
                remediation="Import less, or repeat deploy_function when what it imports can be fetched faster.",
            ) from None
        if found == 0:
            return []
        return list(_findings(said.decode(errors="replace"), source.as_uri()))[:_MOST] or [
            Diagnostic("The compiler ended without a word.")
        ]


async def _deno(words: list[str], source: Path, config: Path, bounds: Bounds, place: Place) -> tuple[int, bytes, bytes]:
    """Exit status, output and errors; ended when either is longer than any honest one."""
    await anyio.to_thread.run_sync(prepare_cache, place.cache)
    options = ["--no-lock", "--node-modules-dir=none", allow_import(bounds), "--config", str(config), str(source)]
    line = bounded([str(place.program), *words, *options], place, ipv6=True, data_kb=MOST_DATA_KB)
    said: dict[str, bytes] = {"out": b"", "err": b""}
    environ = {**environment(bounds, place), "DENO_V8_FLAGS": f"--max-old-space-size={HEAP_MB}"}
    async with await anyio.open_process(line, stdin=-3, env=environ, cwd=source.parent) as process:

        async def read(name: str, stream: anyio.abc.ByteReceiveStream | None) -> None:
            if stream is None:
                return
            async for chunk in stream:
                said[name] += chunk
                if len(said[name]) > MOST_SAID:
                    process.kill()
                    return

        async with anyio.create_task_group() as group:
            group.start_soon(read, "out", process.stdout)
            group.start_soon(read, "err", process.stderr)
        return await process.wait(), said["out"], said["err"]


async def _outside(source: Path, config: Path, bounds: Bounds, place: Place) -> list[Diagnostic]:
    """Files of this machine that the module would have read, by whatever way of importing."""
    status, told, said = await _deno(["info", "--json"], source, config, bounds, place)
    if status:
        found = list(_findings(said.decode(errors="replace"), source.as_uri()))[:1]
        return found or [Diagnostic("What it imports cannot be found out.")]
    try:
        modules: list[dict[str, Any]] = json.loads(told).get("modules", [])
    except ValueError:
        return [Diagnostic("It imports too much.")]
    ours = (source.as_uri(), (place.cache / "npm").as_uri() + "/")
    strange = {
        str(m.get("specifier"))
        for m in modules
        if str(m.get("specifier")).startswith("file:") and m.get("specifier") != ours[0]
        and not str(m.get("specifier")).startswith(ours[1])
    }  # fmt: skip
    if not strange:
        return []
    roots = [m for m in modules if m.get("specifier") == source.as_uri()]
    for each in (each for root in roots for each in root.get("dependencies", [])):
        for way in (each.get("code"), each.get("type")):
            if way and way.get("specifier") in strange:
                start = way.get("span", {}).get("start", {})
                at = (int(start.get("line", -1)) + 1, int(start.get("character", -1)) + 1)
                return [Diagnostic(f"{each.get('specifier')} is not found: {_ONE_FILE}", "", *at)]
    return [Diagnostic(f"It imports a file: {_ONE_FILE}")]


@asynccontextmanager
async def _laid_out(name: str, code: str, place: Place) -> AsyncGenerator[tuple[Path, Path]]:
    """The source and its settings as files. Named after the content: Deno remembers what it found by the name."""
    digest = hashlib.sha256(f"{name}\0{code}".encode()).hexdigest()[:24]
    folder = place.cache / "check" / digest
    _BUSY[folder] = _BUSY.get(folder, 0) + 1
    try:
        await anyio.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in (folder.parent, folder):
            place.give(each)
        source, config = folder / f"{name}.ts", folder / "deno.json"
        await anyio.Path(source).write_text(code, "utf-8")
        await anyio.Path(config).write_text(_CONFIG)
        for each in (source, config):
            await anyio.Path(each).chmod(0o644)
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
