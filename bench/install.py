"""What an installation weighs: a fresh environment made as ``make demo`` makes it, packages by size."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from bench.figures import megabytes, seconds
from bench.runner import Run
from bench.tables import Table

ROOT = Path(__file__).parent.parent
LARGEST = 10
LIMIT_SECONDS = 240
# Runs in the environment that is weighed.
_WEIGH = """
import json, re
from importlib.metadata import PackageNotFoundError, distribution
from packaging.requirements import Requirement

def key(name):
    return re.sub(r"[-_.]+", "-", name).lower()

found, seen, todo = {}, {("brolly", "")}, [("brolly", "")]
while todo:
    name, extra = todo.pop()
    try:
        package = distribution(name)
    except PackageNotFoundError:
        continue
    if name not in found:
        files = [file.locate() for file in package.files or ()]
        found[name] = [package.version, sum(file.stat().st_size for file in files if file.is_file())]
    for needed in map(Requirement, package.requires or ()):
        if needed.marker and not needed.marker.evaluate({"extra": extra}):
            continue
        wanted = {(key(needed.name), part) for part in ("", *needed.extras)} - seen
        seen |= wanted
        todo += wanted
print(json.dumps(found))
"""


async def measure(run: Run) -> Sequence[Table]:
    """A quick run weighs the environment at hand instead of making one."""
    if run.quick:
        return _tables(_weigh(Path(sys.executable)), "The environment at hand, not a fresh one.")
    with tempfile.TemporaryDirectory(prefix="brolly-bench-") as folder:
        venv = Path(folder) / "venv"
        began = time.perf_counter()
        await anyio.to_thread.run_sync(_make, venv)
        took = time.perf_counter() - began
        note = f"A fresh environment, made in {seconds(took)} (download included, or pip's cache where it has them)."
        return _tables(_weigh(venv / "bin" / "python"), note)


def _make(venv: Path) -> None:
    subprocess.run(
        [sys.executable, "scripts/bootstrap.py", str(venv), "runtime"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=LIMIT_SECONDS,
    )


def _weigh(python: Path) -> dict[str, tuple[str, int]]:
    done = subprocess.run([python, "-c", _WEIGH], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _own_size() -> int:
    files: list[Any] = [*(ROOT / "src" / "brolly").rglob("*"), *(ROOT / "tools").rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file() and "__pycache__" not in file.parts)


def _tables(found: dict[str, tuple[str, int]], note: str) -> list[Table]:
    # Installed from a checkout, its files stay there.
    found["brolly"] = (found["brolly"][0], _own_size())
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    total = sum(size for _, (_, size) in ordered)
    rows = [
        [f"`{name}` {version}", megabytes(size), f"{size / total:.0%}"]
        for name, (version, size) in [*ordered[:LARGEST], *(x for x in ordered[LARGEST:] if x[0] == "brolly")]
    ]
    rest = [size for name, (_, size) in ordered[LARGEST:] if name != "brolly"]
    rows += [
        [f"{len(rest)} others", megabytes(sum(rest)), f"{sum(rest) / total:.0%}"],
        [f"**all {len(ordered)} packages**", f"**{megabytes(total)}**", ""],
    ]
    said = "Files of the packages that `pip install .` needs at run time, compiled modules included, pip itself not."
    return [Table(["package", "size", "share"], rows, [f"{said} {note}"])]
