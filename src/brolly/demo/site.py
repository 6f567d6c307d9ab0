"""A page of plain HTML and JavaScript goes live, and talks to the app's data on its own address."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from brolly.demo.stage import Demo, DemoFailed

PAGE = Path(__file__).parent / "page"
_SECONDS = 30.0


def zipped() -> bytes:
    """The page's folder as a zip of its content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(PAGE.iterdir()):
            archive.write(path, path.name)
    return out.getvalue()


async def play(demo: Demo) -> None:
    """The whole scene."""
    demo.step("Tell pages of new posts", "manage_realtime action=configure")
    told = await demo.call("manage_realtime", action="configure", tables=["posts"])
    demo.expect(
        told["configured"][0]["status"] == "enabled", "who may read a post hears of it, by the same policies, at once"
    )
    demo.step("Deploy a page", "create_frontend_deployment, PUT, manage_frontend action=start_deployment")
    made = await demo.call("create_frontend_deployment", framework="static")
    async with httpx.AsyncClient(base_url=demo.server, timeout=_SECONDS, trust_env=False) as http:
        sent = await http.put(made["uploadUrl"], content=zipped(), headers={"Content-Type": "application/zip"})
        if not sent.is_success:
            raise DemoFailed(f"sending the page: {sent.text}")
        done = await demo.call("manage_frontend", action="start_deployment", deployment_id=made["deployment_id"])
        demo.expect(done["status"] == "READY", f"{done['fileCount']} files are live, switched to at once")
        # Browsers know where names below localhost lead; other programs need not.
        host = {"Host": urlsplit(str(done["url"])).netloc}
        page = await http.get("/", headers=host)
        demo.expect("Notes on a wall" in page.text, "the page is there")
        posts: list[dict[str, str]] = (await http.get("/data/posts?select=title", headers=host)).json()
        seen = {post["title"] for post in posts}
        demo.expect(
            bool(seen) and not any("draft" in title for title in seen),
            f"its own address has the app's data as well: a visitor reads {len(seen)} posts, and no draft",
        )
    demo.screen.print(f"  [bold]{done['url']}[/]  [dim](--keep keeps it: sign up there, and write)[/]")
