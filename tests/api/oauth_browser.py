"""A browser that signs in: it follows redirects between real programs, fills in forms and keeps cookies."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from brolly.deps import Deps
from brolly.registry import App
from brolly.web import build_web

HERE = "http://brolly.test"
PAGE = "https://shop.example/signed-in"
_FORM = re.compile(r"<form[^>]*action=\"([^\"]*)\"[^>]*>(.*?)</form>", re.DOTALL)
_INPUT = re.compile(r"<input[^>]*>")
_ATTRIBUTE = re.compile(r"(\w+)=\"([^\"]*)\"")


def open_to_loopback(deps: Deps) -> Deps:
    """A replica whose operator lets providers be on this machine, with room for many sign-ins."""
    return replace(deps, settings=replace(deps.settings, allow_private_network=True, auth_limit_factor=100))


class Browser:
    """Cookies of its own; calls this server in process, and everything else over the network."""

    def __init__(self, deps: Deps) -> None:
        here = httpx.ASGITransport(build_web(deps), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(mounts={"all://brolly.test": here}, base_url=HERE, trust_env=False)

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.__aexit__(kind, error, trace)

    async def start(self, app: App, provider: str, **query: str) -> httpx.Response:
        """The first step: this server's answer to somebody who wants to sign in."""
        return await self.http.get(f"/auth/{app.id}/oauth/{provider}", params=query)

    async def follow(self, response: httpx.Response, until: str) -> httpx.Response:
        """Go where redirects lead; stop before the first address that starts with ``until``."""
        for _ in range(12):
            if not response.is_redirect:
                return response
            target = urljoin(str(response.url), response.headers["location"])
            if target.startswith(until):
                return response
            response = await self.http.get(target)
        raise AssertionError("the redirects do not end")

    async def submit(self, response: httpx.Response, **values: str) -> httpx.Response:
        """Send the page's form, with these values in its fields."""
        assert response.status_code == 200, response.text
        found = _FORM.search(response.text)
        assert found, response.text
        inputs = [dict(_ATTRIBUTE.findall(tag)) for tag in _INPUT.findall(found[2])]
        fields = {i["name"]: unescape(i.get("value", "")) for i in inputs if "name" in i} | values
        return await self.http.post(urljoin(str(response.url), unescape(found[1])), data=fields)

    async def approve(self, response: httpx.Response, login: str, until: str) -> httpx.Response:
        """At a provider's own pages: log in and consent, up to the way back."""
        page = await self.follow(response, until)
        page = await self.follow(await self.submit(page, login=login, password="x"), until)
        if not page.is_redirect and 'value="consent"' in page.text:
            page = await self.follow(await self.submit(page), until)
        return page


def target_of(response: httpx.Response) -> str:
    """Where the redirect leads."""
    assert response.is_redirect, f"{response.status_code} {response.text}"
    return urljoin(str(response.url), response.headers["location"])


def query_of(response: httpx.Response) -> dict[str, str]:
    """The parameters of the redirect's target."""
    return {name: values[0] for name, values in parse_qs(urlsplit(target_of(response)).query).items()}


def code_of(response: httpx.Response) -> Any:
    """The code of the error."""
    return response.json()["error"]["code"]
