"""deploy --source: a project becomes a zip, the server builds it, its log comes by, then the site's address."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brolly.commands.connection import app_id, ask, refusal, server
from brolly.commands.deploy import pack, posted, progress, send, told
from brolly.commands.terminal import note
from brolly.core.errors import AppError
from brolly.core.settings import load_settings

if TYPE_CHECKING:
    import httpx

_LOCKFILES = ("deno.lock", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock")
_NEVER = ("node_modules", ".git", "__MACOSX", ".DS_Store", ".next", ".svelte-kit", ".astro", ".vite", ".turbo")


def deploy_source(home: Path | None, folder: Path, app: str | None, options: Mapping[str, Any], as_json: bool) -> int:
    """Build the folder on the server and make it live; the exit code is 1 when that failed."""
    settings = load_settings(home=home)
    wanted = app or settings.app
    if not wanted:
        raise AppError(
            "VALIDATION_MISSING_FIELD",
            "Which app?",
            remediation="Name it with --app (its id or its name), or set BROLLY_APP.",
        )
    files = source_files(folder)
    if not files:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"There is nothing to build in {folder}.",
            remediation="Name the project's folder, which has package.json: brolly deploy --source . --app APP.",
        )
    with server(settings) as http:
        root = f"/v1/{app_id(http, wanted)}/frontend/deployments"
        made = posted(http, f"{root}/from-source", {})
        with tempfile.TemporaryFile() as archive:
            with progress(f"Packing {len(files)} files", len(files)) as advance:
                pack(folder, files, archive, advance)
            send(http, made, archive)
        body = {name: value for name, value in {**options, "lockfile_hash": lockfile_hash(folder)}.items() if value}
        started = posted(http, f"{root}/from-source/{made['deployment_id']}/start", body)
        for line in log_lines(http, started["logs_url"]):
            note(printable(line))
        return told(ask(http, f"{root}/{made['deployment_id']}", {}), as_json)


def source_files(folder: Path) -> list[Path]:
    """The files to send, relative to the folder: what git would keep; without git, what .gitignore does not name."""
    found = _kept_by_git(folder)
    if found is None:
        found = list(_walked(folder))
    inside = folder.resolve()
    return sorted(
        path
        for path in found
        if not any(part in _NEVER for part in path.parts)
        and (folder / path).is_file()
        and (folder / path).resolve().is_relative_to(inside)
    )


def _kept_by_git(folder: Path) -> list[Path] | None:
    """None where git, or a repository, is missing."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607
            cwd=folder,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError:
        return None
    if done.returncode:
        return None
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _walked(folder: Path) -> Iterator[Path]:
    patterns = _patterns(folder)
    for parent, folders, names in os.walk(folder):
        base = Path(parent).relative_to(folder)
        folders[:] = [each for each in folders if each not in _NEVER and not _is_ignored(base / each, patterns)]
        yield from (base / name for name in names if not _is_ignored(base / name, patterns))


def _patterns(folder: Path) -> list[str]:
    try:
        lines = (folder / ".gitignore").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    # Where no .gitignore tells, files of secrets stay here all the same.
    return [line.strip() for line in ("*.local", *lines) if line.strip() and not line.startswith(("#", "!"))]


def _is_ignored(path: Path, patterns: Sequence[str]) -> bool:
    for pattern in patterns:
        plain = pattern.strip("/")
        by_name = "/" not in pattern.rstrip("/")
        if fnmatch.fnmatch(path.name if by_name else path.as_posix(), plain):
            return True
    return False


def lockfile_hash(folder: Path) -> str | None:
    """What the server is told of the lockfile's state."""
    found = next((folder / name for name in _LOCKFILES if (folder / name).is_file()), None)
    return None if found is None else hashlib.sha256(found.read_bytes()).hexdigest()[:32]


def log_lines(http: httpx.Client, url: str) -> Iterator[str]:
    """The build's lines as they come, until it is over. A connection that ends before is taken up where it ended."""
    last = ""
    path = url[url.index("/v1/") :]
    while True:
        with http.stream("GET", path, headers={"Last-Event-ID": last} if last else {}) as answer:
            if not answer.is_success:
                answer.read()
                raise refusal(answer)
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    last = line[4:]
                elif line == "event: done":
                    return
                elif line.startswith("data: "):
                    yield line[6:]


def printable(line: str) -> str:
    """What a stranger's program printed must not move the cursor."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
