"""Signing in through an OpenID provider that is a program of its own, and not of ours: the package oidc-provider.

It runs under the Node that the development dependencies bring and comes from the npm registry.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from brolly.apps import provision
from brolly.auth.access import users_of
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests import npm
from tests.api.oauth_browser import HERE, PAGE, Browser, code_of, open_to_loopback, query_of, target_of
from tests.conftest import hold_open, http_client, make_owner, mcp_session

PACKAGE = "oidc-provider@9.13.3"
SECRET = "a-client-secret-of-no-small-length"
PROGRAM = Path(__file__).with_name("openid_provider.mjs")


@pytest.fixture(scope="module")
async def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a folder beside the package that it imports."""
    folder = tmp_path_factory.mktemp("openid-provider")
    (folder / "node_modules").symlink_to(await anyio.to_thread.run_sync(npm.packages, PACKAGE) / "node_modules")
    shutil.copy(PROGRAM, folder)
    return folder / PROGRAM.name


@asynccontextmanager
async def running(program: Path, *clients: dict[str, Any]) -> AsyncIterator[str]:
    """The provider as a process; its issuer."""
    command = [npm.program("node"), str(program), *(json.dumps(client) for client in clients)]
    # The node of the environment starts another one, which must end with it.
    async with await anyio.open_process(
        command, cwd=program.parent, stderr=sys.stderr, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(20):
                yield (await process.stdout.receive()).decode().strip()
        finally:
            os.killpg(process.pid, signal.SIGTERM)


class Scene:
    """An app, its owner's tools, a replica that may call loopback, and the provider's issuer."""

    def __init__(self, deps: Deps, app: App, owner: Caller, issuer: str) -> None:
        self.deps, self.app, self.owner, self.issuer = deps, app, owner, issuer
        self.callback = f"{HERE}/auth/{app.id}/oauth/acme/callback"

    async def users(self) -> list[Any]:
        async with users_of(self.deps, self.app) as connection:
            return await connection.fetch(
                "select u.*, (select array_agg(provider || ':' || provider_uid) from auth.identities "
                "where user_id = u.id) as identities from auth.users u order by created_at"
            )

    async def sign_in(self, browser: Browser, login: str, provider: str = "acme") -> httpx.Response:
        """The whole way, up to the redirect to the app's page."""
        response = await browser.start(self.app, provider, redirect_to=PAGE)
        return await browser.follow(await browser.approve(response, login, self.callback), PAGE)


@pytest.fixture(scope="module")
async def scene(deps: Deps, installed: Path) -> AsyncIterator[Scene]:
    """One app for the module, in which the provider is set up as acme, and as apple, which has answers posted."""
    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "oauth-openid", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    own = open_to_loopback(deps)
    back = [f"{HERE}/auth/{app_id}/oauth/{name}/callback" for name in ("acme", "apple")]
    basic = {"client_id": "brolly", "client_secret": SECRET, "redirect_uris": back[:1]}
    post = {**basic, "client_id": "posted", "redirect_uris": back[1:]}
    post["token_endpoint_auth_method"] = "client_secret_post"
    issuer, close = await hold_open(running(installed, basic, post))
    async with mcp_session(own, owner) as mcp:
        await mcp("manage_app", action="update_cors", app_id=app_id, allowed_origins=["https://shop.example"])
        credentials = {"app_id": app_id, "client_secret": SECRET, "provider_metadata": {"issuer": issuer}}
        await mcp("manage_oauth", action="configure", provider="acme", client_id="brolly", **credentials)
        await mcp(
            "manage_oauth",
            action="configure",
            provider="apple",
            client_id="posted",
            scopes=["openid", "email"],
            **credentials,
        )
        schema = {"tables": {"notes": {"columns": {"id": {"type": "serial", "primaryKey": True}, "user_id": {"type": "uuid"}, "body": {"type": "text"}}}}}  # noqa: E501  # fmt: skip
        await mcp("manage_schema", action="apply", app_id=app_id, schema=schema)
        await mcp(
            "manage_rls", action="create_user_isolation", app_id=app_id, table_name="notes", user_column="user_id"
        )
    yield Scene(own, await deps.registry.get(owner, app_id), owner, issuer)
    await close()
    await provision.delete(deps, app)


async def test_a_person_signs_in_and_reaches_their_rows_alone(scene: Scene) -> None:
    tokens: dict[str, dict[str, str]] = {}
    for name in ("ann", "bob"):
        async with Browser(scene.deps) as browser:
            landed = await scene.sign_in(browser, f"{name}@example.com")
            assert target_of(landed).startswith(f"{PAGE}?")
            assert landed.headers["cache-control"] == "no-store"
            assert landed.headers["referrer-policy"] == "no-referrer"
            tokens[name] = query_of(landed)
            assert set(tokens[name]) == {"access_token", "refresh_token", "expires_in", "token_type"}
    rows = f"/v1/{scene.app.id}/notes"
    for name in tokens:
        async with http_client(scene.deps, tokens[name]["access_token"]) as client:
            me = (await client.get(f"/auth/{scene.app.id}/me")).json()
            assert (me["email"], me["email_verified"], me["provider"]) == (f"{name}@example.com", True, "acme")
            assert (me["display_name"], me["avatar_url"]) == (
                f"Name of {name}@example.com",
                "https://pictures.example/1.png",
            )
            assert (await client.post(rows, json={"user_id": me["id"], "body": name})).status_code == 201
            assert [row["body"] for row in (await client.get(rows)).json()] == [name]
    async with http_client(scene.deps) as client:
        renewed = await client.post(
            f"/auth/{scene.app.id}/refresh", json={"refresh_token": tokens["ann"]["refresh_token"]}
        )
    assert renewed.status_code == 200


async def test_who_comes_back_is_the_same_user(scene: Scene) -> None:
    ids: set[str] = set()
    for _ in range(2):
        async with Browser(scene.deps) as browser:
            response = await browser.start(scene.app, "acme")
            back = await browser.approve(response, "cat@example.com", scene.callback)
            answer = (await browser.http.get(target_of(back))).json()
            ids.add(answer["user"]["id"])
            assert answer["refreshToken"] == answer["refresh_token"]
    assert len(ids) == 1


async def test_the_provider_was_given_a_challenge_and_a_nonce(scene: Scene) -> None:
    async with Browser(scene.deps) as browser:
        asked = query_of(await browser.start(scene.app, "acme"))
        assert asked["code_challenge_method"] == "S256"
        assert len(asked["state"]) == 43
        assert asked["nonce"]
        assert asked["redirect_uri"] == scene.callback
        # The provider insists on a challenge, and would not let in who takes it away.
        bare = {k: v for k, v in asked.items() if not k.startswith("code_challenge")}
        refused = await browser.http.get(f"{scene.issuer}/auth", params=bare)
        assert query_of(refused)["error"] == "invalid_request"


async def test_a_code_is_worth_nothing_without_its_verifier(scene: Scene) -> None:
    async with Browser(scene.deps) as browser:
        begun = await browser.start(scene.app, "acme", redirect_to=PAGE)
        back = await browser.approve(begun, "ann@example.com", scene.callback)
        code = query_of(back)["code"]
        # The code of one sign-in in another of the same browser: its verifier is not this one's.
        other = query_of(await browser.start(scene.app, "acme", redirect_to=PAGE))
        landed = await browser.http.get(scene.callback, params={"code": code, "state": other["state"]})
        told = query_of(landed)
        assert (told["error"], told["provider_error"]) == ("oauth_provider_error", "invalid_grant")
        assert "access_token" not in told


async def test_a_state_is_good_for_one_use(scene: Scene) -> None:
    async with Browser(scene.deps) as browser:
        begun = await browser.start(scene.app, "acme", redirect_to=PAGE)
        back = target_of(await browser.approve(begun, "ann@example.com", scene.callback))
        kept = "; ".join(f"{c.name}={c.value}" for c in browser.http.cookies.jar if c.name.startswith("brolly_oauth_"))
        assert "access_token" in query_of(await browser.http.get(back))
        assert "brolly_oauth_" not in str(browser.http.cookies.jar)
        again = await browser.http.get(back, headers={"Cookie": kept})
        assert (again.status_code, code_of(again)) == (400, "OAUTH_STATE_INVALID")


async def test_a_sign_in_is_of_no_use_in_another_browser(scene: Scene) -> None:
    async with Browser(scene.deps) as mine, Browser(scene.deps) as theirs:
        begun = await mine.start(scene.app, "acme", redirect_to=PAGE)
        back = target_of(await mine.approve(begun, "mallory@example.com", scene.callback))
        # Their browser has a sign-in of its own under way, whose cookie is not this one's.
        await theirs.start(scene.app, "acme", redirect_to=PAGE)
        lured = await theirs.http.get(back)
        assert (lured.status_code, code_of(lured)) == (400, "OAUTH_STATE_INVALID")
        # Tried once, it is over for the first browser too.
        assert code_of(await mine.http.get(back)) == "OAUTH_STATE_INVALID"
    assert "mallory@example.com" not in {user["email"] for user in await scene.users()}


async def test_another_replica_can_finish(scene: Scene, deps: Deps) -> None:
    async with Browser(scene.deps) as browser:
        begun = await browser.start(scene.app, "acme", redirect_to=PAGE)
        back = target_of(await browser.approve(begun, "ann@example.com", scene.callback))
        async with Browser(open_to_loopback(deps)) as elsewhere:
            elsewhere.http.cookies = browser.http.cookies
            assert "access_token" in query_of(await elsewhere.http.get(back))


async def test_who_says_no_is_sent_back_with_the_reason(scene: Scene) -> None:
    async with Browser(scene.deps) as browser:
        page = await browser.follow(await browser.start(scene.app, "acme", redirect_to=PAGE), scene.callback)
        cancelled = await browser.follow(await browser.http.get(f"{page.url}/abort"), PAGE)
        told = query_of(cancelled)
        assert (told["error"], told["provider_error"]) == ("oauth_provider_error", "access_denied")


async def test_an_answer_that_is_posted_is_bound_to_the_browser_too(scene: Scene) -> None:
    """As Apple has it: the provider's page posts the answer, to which a browser adds no cookie of another site."""
    callback = f"{HERE}/auth/{scene.app.id}/oauth/apple/callback"
    async with Browser(scene.deps) as browser, Browser(scene.deps) as stranger:
        begun = await browser.start(scene.app, "apple", redirect_to=PAGE)
        assert query_of(begun)["response_mode"] == "form_post"
        assert "samesite=lax" in begun.headers["set-cookie"].lower()
        page = await browser.approve(begun, "eve@example.com", callback)
        assert f'action="{callback}"' in page.text
        # Without cookies, as the browser sends it.
        posted = await stranger.submit(page)
        assert posted.status_code == 303
        landed = await browser.http.get(target_of(posted))
        assert "access_token" in query_of(landed)
    assert ["apple:eve@example.com"] in [user["identities"] for user in await scene.users()]


async def test_an_unverified_address_joins_no_account_and_leaves_it_to_its_owner(scene: Scene) -> None:
    async with Browser(scene.deps) as thief, Browser(scene.deps) as owner:
        # Somebody claims an address that is free: they get an account, unconfirmed as after signup.
        assert "access_token" in query_of(await scene.sign_in(thief, "unverified:zoe@example.com"))
        made = next(user for user in await scene.users() if user["email"] == "zoe@example.com")
        assert made["email_verified"] is False
        # Its owner comes with the address proven, and takes the account over: the first way in is closed.
        assert "access_token" in query_of(await scene.sign_in(owner, "zoe@example.com"))
        taken = next(user for user in await scene.users() if user["email"] == "zoe@example.com")
        assert (taken["id"], taken["email_verified"]) == (made["id"], True)
        assert taken["identities"] == ["acme:zoe@example.com"]
    async with Browser(scene.deps) as thief:
        refused = query_of(await scene.sign_in(thief, "unverified:zoe@example.com"))
        assert refused["error"] == "oauth_email_not_verified"


async def test_who_has_no_address_gets_an_account_that_no_mail_reaches(scene: Scene) -> None:
    async with Browser(scene.deps) as browser:
        tokens = query_of(await scene.sign_in(browser, "nobody"))
    async with http_client(scene.deps, tokens["access_token"]) as client:
        me = (await client.get(f"/auth/{scene.app.id}/me")).json()
        assert (me["email"], me["email_verified"]) == ("nobody@users.noreply.acme.local", False)
        asked = await client.post(f"/auth/{scene.app.id}/magic-link", json={"email": me["email"]})
        assert (asked.status_code, code_of(asked)) == (400, "VALIDATION_INVALID_SCHEMA")
