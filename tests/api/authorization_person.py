"""The owner in front of a browser, and a program that asks: for tests of the authorization server."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from starlette.applications import Starlette

from brolly.authorization import owner
from brolly.deps import Deps
from brolly.keys.service import ensure_account
from brolly.web import build_web

PASSWORD = "correct horse battery"
HERE = "http://brolly.test"
RETURN = "http://127.0.0.1:43210/callback"


@dataclass(frozen=True)
class Place:
    """A server whose owner can sign in."""

    deps: Deps
    web: Starlette
    account: str

    def browser(self, ip: str = "203.0.113.5") -> httpx.AsyncClient:
        """A browser of its own, that follows nothing by itself."""
        transport = httpx.ASGITransport(self.web, raise_app_exceptions=False, client=(ip, 1))
        return httpx.AsyncClient(transport=transport, base_url=HERE, headers={"Sec-Fetch-Site": "same-origin"})


@asynccontextmanager
async def place_of(deps: Deps) -> AsyncIterator[Place]:
    """The server for the block."""
    account = await ensure_account(deps, owner.ACCOUNT)
    await owner.set_password(deps, account, PASSWORD)
    web = build_web(deps)
    async with web.router.lifespan_context(web):
        yield Place(deps, web, account)
    await owner.remove_password(deps, account)
    await deps.control.execute("delete from brolly.authorization_limits")


def hidden(page: httpx.Response) -> dict[str, str]:
    """The hidden fields of the page's form."""
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text)
    return {unescape(name): unescape(value) for name, value in found}


async def sign_in(who: httpx.AsyncClient, url: str, password: str = PASSWORD, code: str = "") -> httpx.Response:
    """The page after signing in: the question."""
    page = await who.get(url)
    assert "Sign in as the owner" in page.text, page.text
    done = await who.post(url, data={**hidden(page), "password": password, "code": code})
    assert done.status_code == 303, done.text
    return await who.get(done.headers["location"])


async def decide(who: httpx.AsyncClient, page: httpx.Response, **fields: str) -> httpx.Response:
    """The form of the question, sent."""
    data = {"access": "full", "app": "", "decision": "allow", **hidden(page), **fields}
    return await who.post(str(page.url), data=data)


def answer(response: httpx.Response) -> dict[str, str]:
    """What the redirect tells the program."""
    assert response.status_code == 303, response.text
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


class Program:
    """A program that registered."""

    def __init__(self, who: httpx.AsyncClient, client_id: str) -> None:
        self.who, self.id = who, client_id
        self.verifier = secrets.token_urlsafe(48)

    @classmethod
    async def register(cls, who: httpx.AsyncClient, name: str = "Test agent", redirect: str = RETURN) -> Program:
        """A new one."""
        made = await who.post("/oauth/register", json={"client_name": name, "redirect_uris": [redirect]})
        assert made.status_code == 201, made.text
        return cls(who, made.json()["client_id"])

    def url(self, without: str = "", **changed: str) -> str:
        """The address to which it sends a browser."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        values = {
            "response_type": "code",
            "client_id": self.id,
            "redirect_uri": RETURN,
            "state": "a state",
            "scope": "mcp",
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
            "resource": f"{HERE}/mcp",
            **changed,
        }
        return f"/oauth/authorize?{urlencode({n: v for n, v in values.items() if n != without})}"

    async def code(self, **changed: str) -> str:
        """A code, for which the owner signed in (if need be) and agreed."""
        url = self.url(**changed)
        page = await self.who.get(url)
        if "Sign in as the owner" in page.text:
            page = await sign_in(self.who, url)
        return answer(await decide(self.who, page))["code"]

    async def exchange(self, code: str, **changed: str) -> httpx.Response:
        """What the token endpoint says to the code."""
        values = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": self.id,
            "redirect_uri": RETURN,
            "code_verifier": self.verifier,
            "resource": f"{HERE}/mcp",
            **changed,
        }
        return await self.who.post("/oauth/token", data=values)

    async def refresh(self, token: str, **changed: str) -> httpx.Response:
        """What it says to a refresh token."""
        values = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.id, **changed}
        return await self.who.post("/oauth/token", data=values)

    async def tokens(self) -> dict[str, Any]:
        """Tokens for everything."""
        done = await self.exchange(await self.code())
        assert done.status_code == 200, done.text
        return done.json()


async def call(who: httpx.AsyncClient, token: str, tool: str, query: str = "", **arguments: Any) -> httpx.Response:
    """A tool called at /mcp with that token."""
    return await who.post(
        f"/mcp{query}",
        headers={"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"},
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}},
    )
