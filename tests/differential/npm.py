"""Packages of the npm registry for tests: fetched once, kept beside the environment's own packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

_ATTEMPTS = 3


def node() -> tuple[str, dict[str, str]]:
    """The node of this environment, else the machine's, and the environment in which npm finds the same one."""
    beside = Path(sysconfig.get_path("scripts")) / "node"
    found = str(beside) if beside.exists() else shutil.which("node")
    if found is None:
        pytest.skip("node is not on this machine")
    return found, {**os.environ, "PATH": f"{Path(found).parent}{os.pathsep}{os.environ['PATH']}"}


def package(name: str, version: str) -> Path:
    """The ``node_modules`` folder that holds the package; skips where npm cannot fetch it."""
    place = Path(sys.prefix) / ".cache" / "npm" / f"{name.replace('/', '+')}@{version}"
    if not place.exists():
        _, environment = node()
        place.parent.mkdir(parents=True, exist_ok=True)
        said = ""
        for _ in range(_ATTEMPTS):
            fresh = Path(tempfile.mkdtemp(dir=place.parent))
            said = _install(fresh, f"{name}@{version}", environment)
            if not said:
                # Another run may have been faster; a folder is put in place whole.
                with suppress(OSError):
                    fresh.rename(place)
                break
            shutil.rmtree(fresh, ignore_errors=True)
        else:
            pytest.skip(f"npm cannot fetch {name}@{version}: {said}")
    return place / "node_modules"


def _install(folder: Path, what: str, environment: dict[str, str]) -> str:
    """Install into the folder; what went wrong, if anything."""
    (folder / "package.json").write_text("{}")
    arguments = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--silent"]
    try:
        done = subprocess.run(
            ["npm", "install", *arguments, what],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr or done.stdout)[-300:] or f"npm ended with {done.returncode}" if done.returncode else ""
