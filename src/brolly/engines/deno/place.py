"""Where Deno lies and as whom it runs: as an account without rights when the server is root."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from brolly.core.account import Account, digest, make_shelf, powerless_account
from brolly.core.errors import AppError

ACCOUNT = "brolly-functions"
"""Not the account of the embedded Postgres, whose files and sockets are then closed to functions as well."""
_RUNNER = Path(__file__).parent / "runner"
_FILES = ("main.ts", "worker.ts")


@dataclass(frozen=True, slots=True)
class Place:
    """What a process is started with; ``cache`` holds what modules were fetched."""

    account: Account
    program: Path
    runner: Path
    cache: Path

    def give(self, folder: Path) -> None:
        """Make a folder of ours the account's; what lies in it is for both."""
        self.account.give(folder)


@cache
def find_deno() -> str:
    """The program that came in the wheel."""
    try:
        from deno import find_deno_bin  # pyright: ignore[reportMissingTypeStubs]

        return find_deno_bin()
    except (ImportError, FileNotFoundError) as error:
        raise AppError(
            "CONFIG_INVALID",
            "Deno is not installed: the package deno is missing or incomplete.",
            remediation="Install the package deno into the environment that runs brolly serve.",
        ) from error


@cache
def find_place(wanted: Path) -> Place:
    """Choose account, program and cache; slow the first time, and the cache is there afterwards."""
    program = Path(find_deno())
    if sys.platform == "win32" or os.geteuid() != 0:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        here = Account(-1, -1, foreign=False) if sys.platform == "win32" else Account(os.geteuid(), os.getegid(), False)
        return Place(here, program, _RUNNER, wanted)
    account = powerless_account(ACCOUNT, "Functions do not run as root")
    runner = _RUNNER
    if not _can_use(account, program, runner):
        program, runner = _copied(program)
    wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
    account.give(wanted)
    if not account.can_enter([wanted]):
        # A folder above it is closed to the account.
        wanted = make_shelf("deno", 0o711) / digest(wanted)
        wanted.mkdir(mode=0o700, exist_ok=True)
        account.give(wanted)
    _give_all(account, wanted)
    return Place(account, program, runner, wanted)


def _can_use(account: Account, program: Path, runner: Path) -> bool:
    test = 'test -x "$1" && shift && for path; do test -r "$path" || exit 1; done'
    files = [str(runner / name) for name in _FILES]
    return account.run(["/bin/sh", "-c", test, "sh", str(program), *files]).returncode == 0


def _copied(program: Path) -> tuple[Path, Path]:
    """Program and runner where every account reaches them, copied once for each version."""
    seen = program.stat()
    texts = b"".join((_RUNNER / name).read_bytes() for name in _FILES)
    name = f"deno-{digest(Path(f'{program}:{seen.st_size}:{seen.st_mtime_ns}:{hash_of(texts)}'))}"
    folder = make_shelf("programs", 0o755) / name
    if not folder.is_dir():
        staging = folder.with_name(f".{name}.{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "runner").mkdir(parents=True)
        shutil.copyfile(program, staging / "deno")
        for each in _FILES:
            shutil.copyfile(_RUNNER / each, staging / "runner" / each)
        for path in (staging, staging / "runner", staging / "deno", *(staging / "runner").iterdir()):
            path.chmod(0o644 if path.suffix == ".ts" else 0o755)
        try:
            staging.rename(folder)
        except OSError:
            # Another process was faster.
            shutil.rmtree(staging, ignore_errors=True)
    return folder / "deno", folder / "runner"


def hash_of(data: bytes) -> str:
    """A short name for a text."""
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]


def _give_all(account: Account, folder: Path) -> None:
    """What an earlier version wrote here as root is the account's as well."""
    for path in (folder, *folder.rglob("*")):
        if path.lstat().st_uid != account.uid:
            account.give(path)
