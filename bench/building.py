"""How long a Vite and React app takes from source: by our builder, shut in, and by npm on the same machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from bench.runner import Run
from bench.tables import Table
from brolly.core.settings import child_environment
from brolly.engines.build.builder import Builder, Order
from brolly.engines.build.network import REGISTRY
from brolly.engines.build.sandbox import Allowance

FILES = {
    "package.json": json.dumps(
        {
            "name": "shop",
            "private": True,
            "type": "module",
            "scripts": {"build": "vite build"},
            "dependencies": {"react": "^19.2.0", "react-dom": "^19.2.0"},
            "devDependencies": {"vite": "^8.0.0", "@vitejs/plugin-react": "^6.0.0"},
        }
    ),
    "vite.config.js": "import { defineConfig } from 'vite'\nimport react from '@vitejs/plugin-react'\n"
    "export default defineConfig({ plugins: [react()] })\n",
    "index.html": '<!doctype html><div id="root"></div><script type="module" src="/main.jsx"></script>',
    "main.jsx": "import { createRoot } from 'react-dom/client'\n"
    "createRoot(document.getElementById('root')).render(<h1>{import.meta.env.MODE}</h1>)\n",
}


def _write(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(text)


async def _ours(builder: Builder, app: str) -> float:
    begun = time.perf_counter()
    async with builder.job(f"bench-{os.urandom(6).hex()}") as job:
        _write(job.source)
        built = await builder.build(job, Order(app), lambda _line: None)
        if not (built.folder / "index.html").exists():
            raise RuntimeError("nothing was built")
    return time.perf_counter() - begun


async def _by_npm(npm: str, cache: Path) -> float:
    folder = Path(tempfile.mkdtemp(prefix="brolly-bench-"))
    try:
        begun = time.perf_counter()
        _write(folder)
        options = ["--no-audit", "--no-fund", "--silent", "--cache", str(cache), "--prefer-offline"]
        for line in ([npm, "install", *options], [npm, "run", "build", "--silent"]):
            await anyio.run_process(line, cwd=folder)
        return time.perf_counter() - begun
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def measure(run: Run) -> Sequence[Table]:
    """Each in turn, so that all have the same neighbours."""
    home = Path(tempfile.mkdtemp(prefix="brolly-bench-"))
    registry = child_environment().get("NPM_CONFIG_REGISTRY") or REGISTRY
    builder = Builder(home, Allowance(registry=registry))
    npm, rounds = shutil.which("npm"), run.size(5, 2)
    took: dict[str, list[float]] = {"cold": [], "kept": [], "npm cold": [], "npm": []}
    run.begin("builds", rounds)
    try:
        for number in range(rounds):
            took["cold"].append(await _ours(builder, f"app_{number}"))
            took["kept"].append(await _ours(builder, f"app_{number}"))
            if npm:
                cache = home / f"npm-{number}"
                took["npm cold"].append(await _by_npm(npm, cache))
                took["npm"].append(await _by_npm(npm, cache))
            run.step()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    labels = {
        "cold": "Brolly, first build of an app",
        "kept": "Brolly, same lockfile again",
        "npm cold": "`npm install`, `npm run build`, empty cache",
        "npm": "the same, npm's cache filled",
    }
    rows = [
        (labels[name], f"{statistics.median(times):.2f} s", f"{min(times):.2f} s", f"{max(times):.2f} s")
        for name, times in took.items()
        if times
    ]
    note = (
        "From the source to the folder with the site, shut in (Landlock, seccomp, namespaces), packages by Deno "
        "through the mirror; npm runs with nothing held back. The first build fetches all packages from the registry."
    )
    return [Table(["Vite 8 and React 19", "median", "fastest", "slowest"], rows, [note])]
