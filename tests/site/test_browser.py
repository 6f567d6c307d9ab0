"""The browser that other tests rely on: it reaches names under .localhost, and keeps people apart."""

from __future__ import annotations

from playwright.async_api import Browser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.blob.serving import serving
from tests.browser import visitor


async def _page(request: Request) -> HTMLResponse:
    host = request.headers["host"].split(":")[0]
    seen = "seen" if "been" in request.cookies else "new"
    answer = HTMLResponse(f"<link rel=icon href=data:,><h1>{host} {seen}</h1><script>console.error('told')</script>")
    answer.set_cookie("been", "1")
    return answer


async def test_the_browser_reaches_localhosts_and_keeps_people_apart(browser: Browser) -> None:
    async with serving(Starlette(routes=[Route("/", _page)])) as base:
        site = f"http://shop.localhost:{base.rsplit(':', 1)[1]}/"
        async with visitor(browser) as ann, visitor(browser) as ben:
            seen = []
            for person in (ann, ann, ben):
                await person.page.goto(site)
                seen.append(await person.page.inner_text("h1"))
            assert seen == ["shop.localhost new", "shop.localhost seen", "shop.localhost new"]
            assert (ann.errors, ben.errors) == (["told"] * 2, ["told"])
