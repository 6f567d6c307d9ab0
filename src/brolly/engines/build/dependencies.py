"""Installed packages that are kept: for one app, by what was asked for, so that no app can put anything in another's.

An entry is made of what an install left, before the build's own command ran, and is found again only by the same
app, lockfile, package.json, manager and machine.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from brolly.engines.build.project import Project

_SIZE = "size"
_WHEN = "used"
KEPT_DAYS = 30


def key_of(app_id: str, project: Project, manager: str, version: str, named: str) -> str:
    """The entry's name. ``named`` is the client's own word for the state of the lockfile."""
    seen = hashlib.sha256()
    lock = (project.folder / project.lockfile).read_bytes() if project.lockfile else b""
    document = (project.folder / "package.json").read_bytes()
    config = project.folder / ".npmrc"
    parts = (app_id, manager, version, platform.machine(), platform.system(), platform.libc_ver()[0], named)
    for part in (*(each.encode() for each in parts), lock, document, config.read_bytes() if config.is_file() else b""):
        seen.update(len(part).to_bytes(8, "big") + part)
    return seen.hexdigest()


class Dependencies:
    """The folder of entries, each a ``node_modules``. Bounded: the one that was used longest ago makes room."""

    def __init__(self, folder: Path, most_mb: int) -> None:
        self._folder, self._most = folder, most_mb * 2**20

    async def restore(self, key: str, project: Path) -> bool:
        """Put the entry's packages into the project; False when there is none."""
        entry = self._folder / key
        if not (entry / _SIZE).is_file():
            return False
        (entry / _WHEN).touch()
        done = await anyio.run_process(
            ["cp", "-a", str(entry / "node_modules"), str(project / "node_modules")], check=False
        )
        if done.returncode:
            # It is going away just now, or the disk is full.
            await anyio.to_thread.run_sync(shutil.rmtree, project / "node_modules", True)
            return False
        return True

    async def keep(self, key: str, project: Path, size: int) -> None:
        """Make an entry of the project's packages; what cannot be kept is not kept."""
        source = project / "node_modules"
        if size > self._most or not source.is_dir() or source.is_symlink():
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._folder / f"{secrets.token_hex(8)}.new"
        fresh.mkdir(mode=0o700)
        try:
            done = await anyio.run_process(["cp", "-a", str(source), str(fresh / "node_modules")], check=False)
            if done.returncode:
                return
            (fresh / _SIZE).write_text(str(size))
            (fresh / _WHEN).touch()
            with suppress(OSError):
                fresh.rename(self._folder / key)
            await anyio.to_thread.run_sync(self._trim)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, fresh, True)

    def _trim(self) -> None:
        """Blocking."""
        entries: list[tuple[float, int, Path]] = []
        for entry in self._folder.iterdir():
            with suppress(OSError, ValueError):
                if entry.suffix == ".new":
                    if time.time() - entry.stat().st_mtime > 3600:
                        shutil.rmtree(entry, ignore_errors=True)
                    continue
                entries.append(((entry / _WHEN).stat().st_mtime, int((entry / _SIZE).read_text()), entry))
        entries.sort(reverse=True)
        total = 0
        for used, size, entry in entries:
            total += size
            if total > self._most or time.time() - used > KEPT_DAYS * 86400:
                # Not to be found while it goes.
                gone = entry.with_name(f"{secrets.token_hex(8)}.new")
                with suppress(OSError):
                    os.replace(entry, gone)
                    shutil.rmtree(gone, ignore_errors=True)
