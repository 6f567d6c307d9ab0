"""A Vite and React app, made by its own generator, is built from source and runs in a browser."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, expect

from brolly.deps import Deps
from brolly.hosting.build_worker import run_next
from brolly.registry import App
from tests.blob.serving import serving
from tests.browser import take_picture, visitor
from tests.conftest import web_of
from tests.npm import environment, packages, program

GENERATOR = "create-vite@9.3.0"
PAGE = """\
import { useState } from 'react'

export default function App() {
  const [count, setCount] = useState(0)
  return (
    <main>
      <h1>{import.meta.env.VITE_TITLE}</h1>
      <button onClick={() => setCount(count + 1)}>count is {count}</button>
    </main>
  )
}
"""


def _made(folder: Path) -> Path:
    """A project as ``npm create vite`` makes it, with a page of ours."""
    script = packages(GENERATOR) / "node_modules" / "create-vite" / "index.js"
    subprocess.run(
        [program("node"), script, "shop", "--template", "react", "--no-interactive"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=True,
    )
    (folder / "shop" / "src" / "App.jsx").write_text(PAGE)
    return folder / "shop"


def _zipped(project: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(each for each in project.rglob("*") if each.is_file()):
            archive.write(path, path.relative_to(project).as_posix())
    return out.getvalue()


async def test_a_vite_react_app_builds_from_source_and_runs(
    deps: Deps, mcp: Any, app: App, browser: Browser, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    source = _zipped(_made(tmp_path))
    shutil.rmtree(tmp_path / "shop")
    said: list[list[str]] = []
    for title in ("First", "Second"):
        made = await mcp("manage_frontend", action="create_from_source", app_id=app.id)
        await http.put(made["uploadUrl"], content=source, headers={"Content-Type": "application/zip"})
        started = await mcp(
            "manage_frontend",
            action="start_from_source",
            app_id=app.id,
            deployment_id=made["deployment_id"],
            user_env={"VITE_TITLE": title},
        )
        assert await run_next(deps)
        said.append((await http.get(started["logs_url"])).text.splitlines())
        done = (await http.get(started["status_url"])).json()
        assert (done["status"], done["framework"]) == ("READY", "react-vite"), "\n".join(said[-1])
    kept = "data: Dependencies: as kept from an earlier build with the same lockfile."
    assert [kept in lines for lines in said] == [False, True]

    async with serving(web_of(deps)) as base, visitor(browser) as somebody:
        await somebody.page.goto(f"http://{app.subdomain}.localhost:{base.rsplit(':', 1)[1]}/some/route")
        await expect(somebody.page.get_by_role("heading")).to_have_text("Second")
        await somebody.page.get_by_role("button").click()
        await expect(somebody.page.get_by_role("button")).to_have_text("count is 1")
        await take_picture(somebody.page, "vite-react")
        assert somebody.errors == []
