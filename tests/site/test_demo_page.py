"""The demo's page, used by two people in a browser: each sees what everybody published, and their own drafts."""

from __future__ import annotations

from typing import Any

import httpx
from playwright.async_api import Browser, Page, expect

from brolly.demo import blog, site
from brolly.deps import Deps
from brolly.registry import App
from tests.browser import take_picture, visitor
from tests.realtime.sockets import serving


async def _live(deps: Deps, mcp: Any, app: App, base: str) -> str:
    """The address of the page, over the demo's tables and rules."""
    await mcp("manage_schema", action="apply", app_id=app.id, schema=blog.SCHEMA)
    for table, column, public in (("users", "id", None), ("posts", "author_id", "published")):
        more = {"public_read_column": public} if public else {}
        await mcp(
            "manage_rls", action="create_user_isolation", app_id=app.id, table_name=table, user_column=column, **more
        )
    await mcp("manage_realtime", action="configure", app_id=app.id, tables=["posts"])
    made = await mcp("create_frontend_deployment", app_id=app.id)
    async with httpx.AsyncClient() as http:
        url = made["uploadUrl"].replace(deps.settings.base_url, base)
        await http.put(url, content=site.zipped(), headers={"Content-Type": "application/zip"})
    done = await mcp("manage_frontend", action="start_deployment", app_id=app.id, deployment_id=made["deployment_id"])
    assert done["status"] == "READY", done
    return f"http://{app.subdomain}.localhost:{base.rsplit(':', 1)[1]}/"


async def _sign_up(page: Page, name: str) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("E-mail").fill(f"{name.lower()}@example.com")
    await page.get_by_label("Password").fill("Correct-horse-9")
    await page.get_by_role("button", name="Sign up").click()
    await expect(page.locator("#email")).to_have_text(f"{name.lower()}@example.com")


async def _write(page: Page, text: str, button: str) -> None:
    await page.get_by_placeholder("What is on your mind?").fill(text)
    await page.locator("#write").get_by_role("button", name=button, exact=True).click()
    await expect(page.locator(".title", has_text=text)).to_be_visible()


async def test_two_people_write_and_neither_sees_the_others_draft(
    deps: Deps, mcp: Any, app: App, browser: Browser
) -> None:
    async with serving(deps) as sockets, visitor(browser) as ann, visitor(browser) as ben:
        address = await _live(deps, mcp, app, sockets.replace("ws", "http", 1))
        await ann.page.goto(address)
        await expect(ann.page.get_by_text("Nothing here yet.")).to_be_visible()
        await _sign_up(ann.page, "Ann")
        await _write(ann.page, "Umbrellas for everybody", "Publish")
        await _write(ann.page, "A thought that is not ready", "Keep as a draft")

        await ben.page.goto(address)
        await expect(ben.page.locator(".title")).to_have_text(["Umbrellas for everybody"])
        await _sign_up(ben.page, "Ben")
        await _write(ben.page, "<b>Rain</b> & wind", "Publish")
        await expect(ben.page.locator(".title")).to_have_text(["<b>Rain</b> & wind", "Umbrellas for everybody"])
        await expect(ben.page.get_by_role("button", name="Remove")).to_have_count(1)

        # Nobody looks again: what Ben published appears on Ann's page by itself.
        await expect(ann.page.locator(".title")).to_have_text(
            ["<b>Rain</b> & wind", "A thought that is not ready", "Umbrellas for everybody"]
        )
        await expect(ann.page.locator(".draft .badge")).to_have_text(["your draft"])
        picture = await take_picture(ann.page, "demo-page")
        assert picture.stat().st_size > 10_000

        # A reload keeps the session; what is published then is everybody's.
        await ann.page.reload()
        await ann.page.locator(".draft").get_by_role("button", name="Publish").click()
        await expect(ben.page.locator(".title")).to_have_count(3)
        # Changes come in their order, so Ben's page would have shown the draft before what follows it.
        await _write(ann.page, "Another thought that is not ready", "Keep as a draft")
        await _write(ann.page, "Boots", "Publish")
        await expect(ben.page.locator(".title")).to_have_text(
            ["Boots", "<b>Rain</b> & wind", "A thought that is not ready", "Umbrellas for everybody"]
        )
        await take_picture(ben.page, "demo-page-live")
        await ann.page.locator(".post", has_text="Boots").get_by_role("button", name="Remove").click()
        await expect(ben.page.locator(".title")).to_have_count(3)
        assert (ann.errors, ben.errors) == ([], [])

        await ben.page.get_by_role("button", name="Sign out").click()
        await ben.page.get_by_label("E-mail").fill("ben@example.com")
        await ben.page.get_by_label("Password").fill("Wrong-horse-9")
        await ben.page.get_by_role("button", name="I was here before").click()
        await expect(ben.page.get_by_role("alert")).to_be_visible()
    rows = await mcp("select_rows", app_id=app.id, table="posts", select="title,published")
    assert {(row["title"], row["published"]) for row in rows["rows"]} == {
        ("Umbrellas for everybody", True), ("A thought that is not ready", True), ("<b>Rain</b> & wind", True),
        ("Another thought that is not ready", False),
    }  # fmt: skip
