"""Programs and packages of the npm registry for tests: fetched once for an environment, and never left out.

What they judge is judged by nothing else, so a test fails where they cannot be had, and says what is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest

_ATTEMPTS = 3
_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--silent", "--prefer-offline")
_PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")


def program(name: str) -> str:
    """``node`` or ``npm``: the one of this environment, else the machine's."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: it comes with the development dependencies (make .venv/.dev)", pytrace=False)
    return found


def environment() -> dict[str, str]:
    """The environment in which npm and what it brings find that node."""
    return {**os.environ, "PATH": f"{Path(program('node')).parent}{os.pathsep}{os.environ['PATH']}"}


def packages(*wanted: str) -> Path:
    """A folder with these, each ``name@version``, in its ``node_modules``. It is kept, and nobody writes to it."""
    shelf = Path(sys.prefix) / ".cache" / "npm"
    shelf.mkdir(parents=True, exist_ok=True)
    place = shelf / sha256(" ".join(wanted).encode()).hexdigest()[:16]
    with (shelf / f"{place.name}.lock").open("w") as lock:
        # Another process of this run may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _fetch(place, wanted)
    return place


def _fetch(place: Path, wanted: tuple[str, ...]) -> None:
    said = ""
    for _ in range(_ATTEMPTS):
        fresh = Path(tempfile.mkdtemp(dir=place.parent))
        said = _install(fresh, wanted)
        if not said:
            fresh.rename(place)
            return
        shutil.rmtree(fresh, ignore_errors=True)
    pytest.fail(
        f"{', '.join(wanted)} cannot be fetched from the npm registry, which these tests need once: {said}",
        pytrace=False,
    )


def _install(folder: Path, wanted: tuple[str, ...]) -> str:
    """Install into the folder; what went wrong, if anything."""
    (folder / "package.json").write_text("{}")
    try:
        done = subprocess.run(
            [program("npm"), "install", *_OPTIONS, *_PATIENCE, *wanted],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=35,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr or done.stdout)[-300:] or f"npm ended with {done.returncode}" if done.returncode else ""
