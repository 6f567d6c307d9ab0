"""By which host a request came decides what it can reach: the platform's own, or one app's site and data and no more.

Files need no credentials and count against no limit of requests; what goes on to the app's data is treated, counted
and refused as if it had come to the platform's own address.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from brolly.core.errors import AppError
from brolly.core.reserved import ROUTE_WORDS
from brolly.deps import Deps
from brolly.hosting.addresses import host_of
from brolly.hosting.matching import Match
from brolly.hosting.quick import answers_of
from brolly.hosting.serving import (
    Asked,
    Target,
    asked_of,
    choose,
    not_found_page,
    send_file,
    send_message,
    send_redirect,
)
from brolly.hosting.sites import Found, Site, sites_of
from brolly.registry import App

PATHS = "/sites/"
CHALLENGES = "/.well-known/brolly-domain/"
# What pages use, of the words that belong to features and not to tables.
_FOR_PAGES = frozenset(
    ("fn", "rpc", "batch", "openapi.json", "realtime", "webhook", "chat", "embeddings", "images", "ai", "rag")
)
_API = ("data", "fn", "auth", "storage", "v1", "realtime")


class SiteEntrance:
    """Answers for the hosts of sites, and for /sites/{app}/; everything else goes on."""

    def __init__(self, app: ASGIApp, deps: Deps) -> None:
        self.app, self.deps = app, deps
        self.sites = sites_of(deps)
        self.answers = answers_of(deps)
        self.bodies = self.answers.bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        found = await self.sites.find(host_of(host))
        path: str = scope["path"]
        if scope["type"] == "http" and path.startswith(CHALLENGES) and (found is None or found.app is None):
            await self._challenge(scope, receive, send, host_of(host))
        elif found is not None:
            await self._site(found, scope, receive, send)
        elif scope["type"] == "http" and path.startswith(PATHS):
            await self._by_path(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _challenge(self, scope: Scope, receive: Receive, send: Send, host: str) -> None:
        """A domain that leads here proves it by what we answer under it, before it is anybody's."""
        token = scope["path"].removeprefix(CHALLENGES)
        known = await self.deps.control.fetchval(
            "select token from brolly.custom_domains where hostname = $1 and token = $2", host, token[:100]
        )
        if known is None:
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": str(known).encode()})

    async def _site(self, found: Found, scope: Scope, receive: Receive, send: Send) -> None:
        app = found.app
        if app is not None and app.status == "ready":
            inner = _inner_path(app, scope)
            if inner is not None and (inner or scope["type"] == "http"):
                await self._pass_on(app, inner, scope, receive, send)
                return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if app is None or app.status != "ready":
            await send_message(send, 404, "No site here", "There is no site at this address.", scope["method"])
            return
        site = await self.sites.open(app, found.deployment_id)
        await self._answer(app, site, asked_of(scope, scope["path"]), (scope, receive, send))

    async def _by_path(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The form without a host of its own: files alone, closed off from the origin that they share."""
        app_id, slash, rest = scope["path"].removeprefix(PATHS).partition("/")
        app = await self.deps.registry.find(app_id)
        if app is None or app.status != "ready":
            await send_message(send, 404, "No site here", "There is no site at this address.", scope["method"])
            return
        asked = asked_of(scope, "/" + rest, PATHS + app_id)
        if not slash:
            await send_redirect(send, 301, "/", asked)
            return
        await self._answer(app, await self.sites.open(app), asked, (scope, receive, send))

    async def _pass_on(self, app: App, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """To the app's own routes, as if asked there."""
        if not path:
            raise AppError(
                "RESOURCE_NOT_FOUND",
                f"{scope['path'][:200]} is not reached by the address of a site, which has the data of its app alone.",
                remediation=f"Use {self.deps.settings.base_url} for what is not of app {app.id}, and for managing "
                "apps; manage_app list shows them.",
            )
        inner = {**scope, "path": path, "raw_path": path.encode("utf-8", "surrogateescape"), "site_of": app.id}
        await self.app(inner, receive, send)

    async def _answer(self, app: App, site: Site | None, asked: Asked, call: tuple[Scope, Receive, Send]) -> None:
        send = call[2]
        if app.paused_at is not None:
            await send_message(send, 503, "Paused", "This site is paused.", asked.method, 60)
            return
        if site is None:
            text = "Nothing has been deployed here yet."
            await send_message(send, 404, "No site yet", text, asked.method)
            return
        chosen = choose(site, asked)
        if isinstance(chosen, Match) and chosen.rule.status in (200, 404):
            await self._rewritten(app, site, chosen, asked, call)
        elif asked.method not in ("GET", "HEAD"):
            await send_message(send, 405, "Not allowed", "Files can be read, not written.", asked.method)
        elif isinstance(chosen, Match):
            await send_redirect(send, chosen.rule.status, chosen.target, asked)
        elif isinstance(chosen, str):
            await send_redirect(send, 301, chosen + (f"?{asked.query}" if asked.query else ""), asked)
        elif chosen is not None:
            sent = await send_file(self.deps, self.bodies, site, chosen, asked, send)
            # Below the words of the data, other headers decide as well.
            if sent is not None and not asked.prefix and asked.path[1:].partition("/")[0] not in _API:
                self.answers.keep(call[0], app, *sent)
        else:
            await self._missing(site, asked, send)

    async def _rewritten(
        self, app: App, site: Site, match: Match, asked: Asked, call: tuple[Scope, Receive, Send]
    ) -> None:
        """What a rule shows in place of the path: another file, or the app's own data."""
        scope, receive, send = call
        path, _, query = match.target.partition("?")
        inner = None if asked.prefix else _inner_path(app, {**scope, "path": path})
        if inner:
            await self._pass_on(
                app, inner, {**scope, "query_string": query.encode("latin-1", "replace")}, receive, send
            )
            return
        if asked.method not in ("GET", "HEAD"):
            await send_message(send, 405, "Not allowed", "Files can be read, not written.", asked.method)
            return
        found = _file_at(site, path)
        if found is None:
            await self._missing(site, asked, send)
            return
        target = Target(found.asset, asked.path, match.rule.status)
        await send_file(self.deps, self.bodies, site, target, asked, send)

    async def _missing(self, site: Site, asked: Asked, send: Send) -> None:
        page = not_found_page(site, asked.path)
        if page is not None:
            await send_file(self.deps, self.bodies, site, page, asked, send)
        else:
            await send_message(send, 404, "Not found", "There is no page at this address.", asked.method)


def _file_at(site: Site, path: str) -> Target | None:
    from brolly.hosting.serving import find_file

    found = find_file(site, path)
    if isinstance(found, str):
        found = find_file(site, found)
    return found if isinstance(found, Target) else None


def _inner_path(app: App, scope: Scope) -> str | None:
    """Where the platform has what the path of a site means: "" when it is not for sites, None for a file."""
    path: str = scope["path"]
    first, _, rest = path[1:].partition("/")
    if first not in _API or (not rest and first != "realtime"):
        return None
    if first == "realtime":
        return f"/v1/{app.id}/realtime" if scope["type"] == "websocket" else None
    if first in ("auth", "storage"):
        if first == "auth" and _is_page(scope, rest):
            return None
        own = rest.removeprefix(app.id + "/")
        return "" if own.startswith("app_") else f"/{first}/{app.id}/{own}"
    if first == "fn":
        return f"/v1/{app.id}/fn/{rest}"
    if first == "v1":
        owner, _, rest = rest.partition("/")
        if owner != app.id:
            return ""
    word = rest.partition("/")[0]
    return f"/v1/{app.id}/{rest}" if word and (word not in ROUTE_WORDS or word in _FOR_PAGES) else ""


def _is_page(scope: Scope, rest: str) -> bool:
    """Whether a browser goes to a page of the site's own, such as /auth/callback, rather than to sign-in itself."""
    if scope["type"] != "http" or scope["method"] != "GET" or rest.startswith(("oauth/", "app_", ".well-known/")):
        return False
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return b"text/html" in accept
