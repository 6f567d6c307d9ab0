"""From source to a folder with a site: packages installed, the build run, its output found."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import anyio
import anyio.to_thread

from brolly.engines.build.dependencies import Dependencies, key_of
from brolly.engines.build.project import (
    DEFAULT_COMMAND,
    BuildFailedError,
    Manager,
    Project,
    find_output,
    find_project,
)
from brolly.engines.build.sandbox import Allowance, Sandbox, Stopped, folder_size
from brolly.engines.deno.place import find_deno

SHELF = Path("/var/lib/brolly/builds")
"""Root's builds run as another account, which cannot pass the data folder."""
_LOCK = "lock"
_NODE = """#!/bin/sh
# Where Node is not installed, Deno takes its place.
case "$1" in
  -v|--version) echo v24.0.0 ;;
  -e|--eval) shift; exec deno eval "$@" ;;
  *) exec deno run --quiet --allow-all "$@" ;;
esac
"""
_RUNNER = """#!/bin/sh
case "$1" in
  run|run-script) shift; exec deno task --quiet "$@" ;;
  exec|x|dlx) shift; exec deno run --quiet --allow-all "npm:$@" ;;
  *) echo "$0 $1: packages are installed by Deno here; ask for package_manager npm, pnpm or yarn." >&2; exit 1 ;;
esac
"""
_NPX = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
name="$1"; shift
if [ -e "node_modules/.bin/$name" ]; then exec deno task --quiet --eval "$name $*"; fi
exec deno run --quiet --allow-all "npm:$name" "$@"
"""
_INSTALLS: Mapping[str, tuple[str, str]] = {
    # With the project's lockfile, and without.
    "npm": ("npm ci --no-audit --no-fund", "npm install --no-audit --no-fund"),
    "pnpm": ("pnpm install --frozen-lockfile", "pnpm install --no-frozen-lockfile"),
    "yarn": ("yarn install --frozen-lockfile --non-interactive", "yarn install --non-interactive"),
}
_LOCKS = {"npm": "package-lock.json", "pnpm": "pnpm-lock.yaml", "yarn": "yarn.lock"}


@dataclass(frozen=True, slots=True)
class Order:
    """What to build and how. ``output`` None: where the framework puts it; ``named``: the client's lockfile hash."""

    app_id: str
    command: str = DEFAULT_COMMAND
    output: str | None = None
    manager: Manager | None = None
    named: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Built:
    """The folder of the site, which goes with the job's; the framework as deployments name it."""

    folder: Path
    kind: str
    cached: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A build's folder: the source is to be put into ``source``."""

    folder: Path

    @property
    def source(self) -> Path:
        """Where the source goes."""
        return self.folder / "source"


class Builder:
    """Builds in folders below one, with kept dependencies beside them."""

    def __init__(self, home: Path, allowance: Allowance, cache_mb: int = 4096) -> None:
        self.allowance = allowance
        self._root = home / "builds"
        if os.geteuid() == 0:
            self._root = SHELF / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        self._dependencies = Dependencies(self._root / "dependencies", cache_mb)

    @asynccontextmanager
    async def job(self, name: str) -> AsyncGenerator[Job]:
        """A fresh folder, gone afterwards; what a killed server left goes as well."""
        folder, lock = await anyio.to_thread.run_sync(self._open, name)
        try:
            yield Job(folder)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove, folder)
                os.close(lock)

    def _open(self, name: str) -> tuple[Path, int]:
        jobs = self._root / "jobs"
        jobs.mkdir(mode=0o711, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            for each in (SHELF.parent, SHELF, self._root, jobs):
                each.chmod(each.stat().st_mode | 0o711)
        for left in jobs.iterdir():
            _remove_if_left(left)
        folder = jobs / name
        folder.mkdir(mode=0o700)
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for part in ("source", "home", "tmp", "bin"):
            (folder / part).mkdir(mode=0o700)
        return folder, lock

    async def build(self, job: Job, order: Order, say: Callable[[str], None]) -> Built:
        """Do it. Raises ``BuildFailedError`` with the reason, for whoever wrote the source."""
        project = await anyio.to_thread.run_sync(find_project, job.source)
        say(f"Found {project.framework}" + (f", with {project.lockfile}." if project.lockfile else "."))
        if project.is_plain:
            return Built(await anyio.to_thread.run_sync(find_output, project, order.output), project.kind, False)
        sandbox = Sandbox(job.folder, self.allowance, say)
        tools = await anyio.to_thread.run_sync(self._tools, job, order, say)
        await anyio.to_thread.run_sync(sandbox.own, job.folder)
        try:
            cached = await self._install(sandbox, project, order, tools, say)
            say(f"Building: {order.command}")
            status = await sandbox.run(
                tools.command(order.command), project.folder, {**tools.environment, **order.environment}, tools.read
            )
        except Stopped as stopped:
            raise BuildFailedError(f"The build was ended: {stopped}") from None
        if status:
            raise BuildFailedError(_failure(project, order, status))
        return Built(await anyio.to_thread.run_sync(find_output, project, order.output), project.kind, cached)

    async def _install(
        self, sandbox: Sandbox, project: Project, order: Order, tools: _Tools, say: Callable[[str], None]
    ) -> bool:
        if not project.needs:
            return False
        key = await anyio.to_thread.run_sync(key_of, order.app_id, project, tools.manager, tools.version, order.named)
        if await self._dependencies.restore(key, project.folder):
            await anyio.to_thread.run_sync(sandbox.own, project.folder)
            say("Dependencies: as kept from an earlier build with the same lockfile.")
            return True
        command = tools.install(project)
        say(f"Installing dependencies: {command}")
        status = await sandbox.run(tools.command(command), project.folder, tools.environment, tools.read)
        if status:
            raise BuildFailedError(f"Installing the dependencies failed with status {status}; the log says why.")
        size = await anyio.to_thread.run_sync(folder_size, project.folder / "node_modules")
        await self._dependencies.keep(key, project.folder, size)
        return False

    def _tools(self, job: Job, order: Order, say: Callable[[str], None]) -> _Tools:
        deno = Path(find_deno())
        if os.geteuid() == 0:
            deno = _shelved(deno, SHELF / "programs")
        read, path = [deno], ["/usr/local/bin", "/usr/bin", "/bin"]
        manager = order.manager or "deno"
        if manager != "deno":
            found = shutil.which(manager), shutil.which("node")
            if found[0] and found[1]:
                for program in found:
                    # The folder of bin and lib in which npm has its own modules.
                    assert program is not None  # noqa: S101
                    read.append(Path(program).resolve().parent.parent)
                    path.insert(0, str(Path(program).parent))
                    read.append(Path(program).parent)
            else:
                say(f"{manager} is not installed on this machine; Deno installs the packages and runs the scripts.")
                manager = "deno"
        if manager == "deno":
            self._write_shims(job.folder / "bin")
            path.insert(0, str(job.folder / "bin"))
        (job.folder / "bin" / "deno").symlink_to(deno)
        environment = {
            "PATH": os.pathsep.join([*path, str(job.folder / "bin")]),
            "HOME": str(job.folder / "home"),
            "TMPDIR": str(job.folder / "tmp"),
            "DENO_DIR": str(job.folder / "home" / "deno"),
            "LANG": "C.UTF-8",
            **dict.fromkeys(("CI", "NO_COLOR", "DENO_NO_UPDATE_CHECK", "NEXT_TELEMETRY_DISABLED"), "1"),
            **dict.fromkeys(("ASTRO_TELEMETRY_DISABLED", "NUXT_TELEMETRY_DISABLED", "ADBLOCK"), "1"),
            "npm_config_update_notifier": "false",
        }
        return _Tools(manager, _deno_version(), str(deno), environment, tuple(read))

    def _write_shims(self, folder: Path) -> None:
        shims = {"node": _NODE, "npx": _NPX, **dict.fromkeys(("npm", "pnpm", "yarn"), _RUNNER)}
        for name, text in shims.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)


@dataclass(frozen=True, slots=True)
class _Tools:
    """What installs and runs scripts, and what of the machine's files it needs to read."""

    manager: str
    version: str
    deno: str
    environment: Mapping[str, str]
    read: tuple[Path, ...]

    def install(self, project: Project) -> str:
        """The command that installs the project's packages."""
        if self.manager == "deno":
            return "deno install --quiet"
        return _INSTALLS[self.manager][not (project.folder / _LOCKS[self.manager]).is_file()]

    def command(self, line: str) -> list[str]:
        """The program line for a command as people write it."""
        if self.manager != "deno":
            return ["/bin/sh", "-c", line]
        if line.startswith("deno install"):
            return [self.deno, *line.split()[1:]]
        return [self.deno, "task", "--quiet", "--eval", line]


def _failure(project: Project, order: Order, status: int) -> str:
    if order.command == DEFAULT_COMMAND and "build" not in project.scripts:
        return "package.json has no script named build. Add one, or set build_command."
    return f"{order.command} failed with status {status}; the log says why."


@cache
def _deno_version() -> str:
    return subprocess.run([find_deno(), "--version"], check=False, capture_output=True, text=True).stdout.split("\n")[0]


def _shelved(program: Path, shelf: Path) -> Path:
    """A copy of the program where every account can run it, or itself where it can already be reached."""
    program = program.resolve()
    if all(folder.stat().st_mode & 0o001 for folder in program.parents):
        return program
    found = program.stat()
    copy = shelf / f"{program.name}-{found.st_size}-{int(found.st_mtime)}"
    if not copy.exists():
        shelf.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copy(program, fresh)
        fresh.chmod(0o755)
        fresh.replace(copy)
    return copy


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Remove a job whose server is gone."""
    with suppress(OSError):
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        finally:
            os.close(lock)
