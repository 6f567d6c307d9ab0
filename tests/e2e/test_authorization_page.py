"""The owner's page in Chromium, over a real server: from the program's address back to the program."""

from __future__ import annotations

import socket
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import httpx
import uvicorn
from playwright.async_api import Browser

from brolly.authorization import owner
from brolly.deps import Deps
from brolly.keys.service import ensure_account
from brolly.web import build_web
from tests.api.authorization_person import PASSWORD, Program
from tests.browser import visitor
from tests.conftest import hold_open
from tests.e2e.test_mcp_conformance import _serving


async def test_the_owner_reads_signs_in_and_allows(deps: Deps, browser: Browser) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    here = replace(deps, settings=replace(deps.settings, public_url=base))
    await owner.set_password(here, await ensure_account(here, owner.ACCOUNT), PASSWORD)
    server = uvicorn.Server(uvicorn.Config(build_web(here), port=port, log_config=None, lifespan="on"))
    _, close = await hold_open(_serving(server))
    try:
        async with httpx.AsyncClient(base_url=base) as who, visitor(browser) as person:
            # What the program listens on is a page that this server has.
            back = f"http://127.0.0.1:{port}/health"
            program = await Program.register(who, "Agent <b>one</b>", back)
            await person.page.goto(base + program.url(redirect_uri=back, resource=f"{base}/mcp"))
            await person.page.get_by_label("Password").fill(PASSWORD)
            await person.page.get_by_role("button", name="Sign in").click()
            await person.page.get_by_role("heading", name="Let Agent <b>one</b> in?").wait_for()
            await person.page.get_by_label("Only read").check()
            await person.page.get_by_role("button", name="Allow").click()
            await person.page.wait_for_url("**/health?**")
            told = dict(parse_qsl(urlsplit(person.page.url).query))
            assert told["iss"] == base
            done = await program.exchange(told["code"], redirect_uri=back, resource=f"{base}/mcp")
            assert done.json()["scope"] == "mcp:read"
    finally:
        await close()
        await owner.remove_password(here, await ensure_account(here, owner.ACCOUNT))
