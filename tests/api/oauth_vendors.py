"""Providers of OAuth as programs on loopback, each in the format that its vendor documents, and broken on demand."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from brolly.apps import provision
from brolly.auth.access import users_of
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests.api.oauth_browser import HERE, PAGE, Browser, open_to_loopback, query_of
from tests.conftest import make_owner

SECRET = "vendor-secret"
APPLE_KEY = generate_ec_key(SECP256R1())
APPLE_PEM = APPLE_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
Break = Callable[[Request], Awaitable[Response]]


class Vendors:
    """All vendors under one address, one folder each.

    ``person`` is what the vendor answers about who signs in, ``claims`` goes over the ID token's claims (None
    takes one out), ``broken`` answers instead of an endpoint.
    """

    def __init__(self) -> None:
        self.base = ""
        self.key = generate_private_key(65537, 2048)
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        self.person: Any = {}
        self.emails: Any = []
        self.claims: dict[str, Any] = {}
        self.user: str | None = None
        self.broken: dict[str, Break] = {}
        self.sign: Callable[[dict[str, Any]], str] = self.signed

    def signed(self, claims: dict[str, Any]) -> str:
        # Not by what checks claims: some tests need those that nobody should write.
        return jwt.PyJWS().encode(json.dumps(claims).encode(), self.key, "RS256", headers={"kid": "k1"})

    def issuer(self, vendor: str) -> str:
        return f"{self.base}/{vendor}"

    def urls(self, vendor: str) -> dict[str, str]:
        return {f"{name}_url": f"{self.base}/{vendor}/{name}" for name in ("authorization", "token", "userinfo")}

    async def discovery(self, request: Request) -> Response:
        vendor = request.path_params["vendor"]
        ends = {f"{n}_endpoint": f"{self.base}/{vendor}/{n}" for n in ("authorization", "token", "userinfo")}
        return JSONResponse({"issuer": self.issuer(vendor), "jwks_uri": f"{self.base}/{vendor}/jwks", **ends})

    async def jwks(self, _request: Request) -> Response:
        return JSONResponse({"keys": [{**RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True), "kid": "k1"}]})

    async def authorization(self, request: Request) -> Response:
        asked = dict(request.query_params)
        code = secrets.token_hex(8)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], **({"user": self.user} if self.user else {})}
        if asked.get("response_mode") == "form_post":
            inputs = "".join(
                f'<input type=\'hidden\' name="{k}" value="{v.replace(chr(34), "&quot;")}">' for k, v in answer.items()
            )
            return HTMLResponse(f'<form method="post" action="{asked["redirect_uri"]}">{inputs}</form>')
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def token(self, request: Request) -> Response:
        form = {k: str(v) for k, v in (await request.form()).items()}
        vendor = request.path_params["vendor"]
        basic = request.headers.get("authorization", "")
        if basic:
            user, _, word = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")
            form |= {"client_id": user, "client_secret": word, "by": "basic"}
        self.asked.append(form)
        begun = self.codes.pop(form["code"], None)
        if begun is None or begun["redirect_uri"] != form["redirect_uri"]:
            # GitHub answers refusals with 200.
            return JSONResponse({"error": "bad_verification_code"}, 200 if vendor == "github" else 400)
        if "code_challenge" in begun:
            digest = sha256(form["code_verifier"].encode()).digest()
            assert begun["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
        answer = {"access_token": f"at-{vendor}", "token_type": "Bearer", "expires_in": 3600}
        if begun.get("scope", "").startswith("openid") or vendor == "apple":
            now = int(time.time())
            claims = {"iss": self.issuer(vendor), "aud": form["client_id"], "iat": now, "exp": now + 60}
            if "nonce" in begun and vendor != "linkedin":
                claims["nonce"] = begun["nonce"]
            claims |= {"sub": "p1", "name": "Pat"} | self.claims
            answer["id_token"] = self.sign({k: v for k, v in claims.items() if v is not None})
        return JSONResponse(answer)

    async def userinfo(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer at-{request.path_params['vendor']}"
        self.asked.append(dict(request.query_params))
        return JSONResponse(self.person)

    async def addresses(self, _request: Request) -> Response:
        return JSONResponse(self.emails)

    def web(self) -> Starlette:
        paths = {
            ".well-known/openid-configuration": self.discovery,
            "jwks": self.jwks,
            "authorization": self.authorization,
            "token": self.token,
            "userinfo": self.userinfo,
            "userinfo/emails": self.addresses,
        }
        ends = {path: self._or_broken(path.rpartition("/")[2], end) for path, end in paths.items()}
        return Starlette(routes=[Route(f"/{{vendor}}/{p}", e, methods=["GET", "POST"]) for p, e in ends.items()])

    def _or_broken(self, name: str, end: Break) -> Break:
        async def answer(request: Request) -> Response:
            return await self.broken.get(name, end)(request)

        return answer


class Stage:
    """An app, a replica that may call loopback, its owner, and the vendors."""

    def __init__(self, deps: Deps, app: App, owner: Caller, key: str, vendors: Vendors) -> None:
        self.deps, self.app, self.owner, self.key, self.vendors = deps, app, owner, key, vendors

    async def configure(self, provider: str, *, discovered: bool = False, **arguments: Any) -> Any:
        """Set the provider up so that its calls go to the vendors here."""
        urls = {} if discovered else self.vendors.urls(provider)
        if discovered:
            arguments.setdefault("provider_metadata", {})["issuer"] = self.vendors.issuer(provider)
        given = {"client_id": "shop", "client_secret": SECRET, **urls, **arguments}
        action = {"app_id": self.app.id, "provider": provider, **given}
        return await self.deps.tools["manage_oauth"].run(self.deps, self.owner, "configure", action)

    async def sign_in(
        self, provider: str, browser: Browser | None = None, *, page: str | None = PAGE
    ) -> httpx.Response:
        """The whole way, up to the app's page or, without one, the JSON answer."""
        if browser is None:
            async with Browser(self.deps) as fresh:
                return await self.sign_in(provider, fresh, page=page)
        start = await browser.start(self.app, provider, **({"redirect_to": page} if page else {}))
        answer = await browser.follow(start, page or "none:")
        if "<form" in answer.text:
            answer = await browser.follow(await browser.submit(answer), page or "none:")
        return answer

    async def told(self, provider: str) -> dict[str, str]:
        """The parameters with which the browser comes to the app's page."""
        return query_of(await self.sign_in(provider))

    async def users(self) -> dict[str, Any]:
        """The users by address, with their identities."""
        async with users_of(self.deps, self.app) as connection:
            rows = await connection.fetch(
                "select u.*, array(select provider || ':' || provider_uid from auth.identities "
                "where user_id = u.id order by 1) as identities from auth.users u"
            )
        return {row["email"]: row for row in rows}

    async def execute(self, sql: str, *arguments: Any) -> Any:
        """A statement on the app's users."""
        async with users_of(self.deps, self.app) as connection:
            return await connection.fetch(sql, *arguments)


@asynccontextmanager
async def stage_of(deps: Deps) -> AsyncIterator[Stage]:
    """An app whose page may get tokens, and the vendors serving."""
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"oauth-{secrets.token_hex(4)}", "self-hosted")
    own = open_to_loopback(deps)
    cors = {"app_id": app_id, "allowed_origins": ["https://shop.example"]}
    await own.tools["manage_app"].run(own, owner, "update_cors", cors)
    vendors = Vendors()
    server = uvicorn.Server(uvicorn.Config(vendors.web(), port=0, log_config=None, lifespan="off"))
    task = asyncio.get_running_loop().create_task(server.serve())
    with anyio.fail_after(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
            await anyio.sleep(0.01)
    vendors.base = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    app = await deps.registry.get(owner, app_id)
    try:
        yield Stage(own, app, owner, key, vendors)
    finally:
        server.should_exit = True
        await task
        await provision.delete(deps, app)


def callback(stage: Stage, provider: str) -> str:
    """This server's address to which the provider sends the browser."""
    return f"{HERE}/auth/{stage.app.id}/oauth/{provider}/callback"
