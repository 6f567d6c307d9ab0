"""deploy: a folder becomes a zip, the zip goes to the server, and the site's address comes back."""

from __future__ import annotations

import fnmatch
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from brolly.commands.connection import app_id, refusal, server
from brolly.commands.terminal import is_terminal, note, write, write_json
from brolly.core.errors import AppError
from brolly.core.settings import load_settings

if TYPE_CHECKING:
    import httpx

IGNORE_FILE = ".brollyignore"
_ALWAYS_OUT = ("node_modules", "__MACOSX", "Thumbs.db")
_CHUNK = 256 * 1024
_WAIT_SECONDS = 330.0
Advance = Callable[[int], None]


def deploy_folder(home: Path | None, folder: Path, app: str | None, framework: str | None, as_json: bool) -> int:
    """Deploy the folder; the exit code is 1 when the server could not make a site of it."""
    settings = load_settings(home=home)
    wanted = app or settings.app
    if not wanted:
        raise AppError(
            "VALIDATION_MISSING_FIELD",
            "Which app?",
            remediation="Name it with --app (its id or its name), or set BROLLY_APP.",
        )
    files = files_of(folder)
    if not files:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"There is nothing to deploy in {folder}.",
            remediation="Build the front end, then name the folder with its index.html: brolly deploy dist --app APP.",
        )
    with server(settings) as http:
        root = f"/v1/{app_id(http, wanted)}/frontend/deployments"
        body = {"framework": chosen} if (chosen := framework or framework_of(folder)) else {}
        made = posted(http, root, body)
        with tempfile.TemporaryFile() as archive:
            with progress(f"Packing {len(files)} files", len(files)) as advance:
                pack(folder, files, archive, advance)
            send(http, made, archive)
        with progress("Publishing"):
            done = posted(http, f"{root}/{made['id']}/start", {}, _WAIT_SECONDS)
    return told(done, as_json)


def told(done: dict[str, Any], as_json: bool) -> int:
    """Say how a deployment ended; the exit code."""
    if as_json:
        write_json(done)
        return 0 if done["status"] == "READY" else 1
    for warning in done.get("warnings", ()):
        note(f"Note: {warning}")
    if done["status"] != "READY":
        note(f"Not deployed: {done['error']}")
        return 1
    if not done["live"]:
        note("A deployment that was started later is live; this one answers at its own address.")
    write(done["url"])
    return 0


def files_of(folder: Path) -> list[Path]:
    """The files to send, relative to the folder, in order. Links are followed only to files inside it."""
    patterns = _patterns(folder)
    inside = folder.resolve()
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        base = Path(parent).relative_to(folder)
        folders[:] = sorted(each for each in folders if not _is_out(base / each, patterns, folder=True))
        for name in sorted(names):
            path = base / name
            if not _is_out(path, patterns) and (folder / path).resolve().is_relative_to(inside):
                found.append(path)
    return found


def _patterns(folder: Path) -> list[str]:
    try:
        lines = (folder / IGNORE_FILE).read_text("utf-8").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _is_out(path: Path, patterns: Sequence[str], *, folder: bool = False) -> bool:
    if path.name in _ALWAYS_OUT or (path.name.startswith(".") and path.name != ".well-known"):
        return True
    for pattern in patterns:
        if pattern.endswith("/") and not folder:
            continue
        plain = pattern.strip("/")
        by_name = "/" not in pattern.rstrip("/")
        if fnmatch.fnmatch(path.name if by_name else path.as_posix(), plain):
            return True
    return False


def framework_of(folder: Path) -> str | None:
    """What the project around the folder is made with, if its package.json tells."""
    for place in (folder, *folder.resolve().parents[:2]):
        try:
            package = json.loads((place / "package.json").read_text("utf-8"))
            names = {*package.get("dependencies", {}), *package.get("devDependencies", {})}
        except (OSError, ValueError, AttributeError, TypeError):
            continue
        if "next" in names:
            return "nextjs-static"
        return "react-vite" if "vite" in names and "astro" not in names else None
    return None


def pack(folder: Path, files: Sequence[Path], target: IO[bytes], advance: Advance) -> None:
    """Zip the files."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files:
            # Without the file's time: zip knows none before 1980.
            with (folder / path).open("rb") as source, archive.open(zipfile.ZipInfo(path.as_posix()), "w") as entry:
                while chunk := source.read(_CHUNK):
                    entry.write(chunk)
            advance(1)


def posted(http: httpx.Client, path: str, body: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    """What the server answers to a POST; raises what it refuses."""
    answer = http.post(path, json=body, timeout=seconds)
    if not answer.is_success:
        raise refusal(answer)
    return answer.json()


def send(http: httpx.Client, made: dict[str, Any], archive: IO[bytes]) -> None:
    """Send the zip to where the deployment waits for it."""
    import httpx

    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    if size > made["maxSizeBytes"]:
        raise AppError(
            "REQUEST_TOO_LARGE",
            f"The zip has {size} bytes; the server takes {made['maxSizeBytes']}.",
            remediation=f"Leave out what visitors do not need, with {IGNORE_FILE}, then repeat brolly deploy.",
        )
    with progress("Sending", size) as advance:

        def chunks() -> Generator[bytes]:
            while chunk := archive.read(_CHUNK):
                yield chunk
                advance(len(chunk))

        headers = {"Content-Type": "application/zip", "Content-Length": str(size)}
        # Without the key: the URL carries its own authority.
        answer = httpx.put(made["uploadUrl"], content=chunks(), headers=headers, timeout=60, trust_env=False)
    if not answer.is_success:
        raise refusal(answer)


@contextmanager
def progress(what: str, total: int | None = None) -> Generator[Advance]:
    """A bar on stderr for people; nothing for programs."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not (is_terminal() and console.is_terminal)
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
