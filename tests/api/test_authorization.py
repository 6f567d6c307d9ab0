"""OAuth for /mcp, as programs and the owner use it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from brolly.apps import provision
from brolly.authorization import owner
from brolly.core.totp import STEP_SECONDS, totp
from brolly.deps import Deps
from tests.api.authorization_person import (
    HERE,
    PASSWORD,
    RETURN,
    Place,
    Program,
    answer,
    call,
    decide,
    hidden,
    place_of,
    sign_in,
)
from tests.conftest import hold_open


@pytest.fixture(scope="module")
async def place(deps: Deps) -> AsyncIterator[Place]:
    place, close = await hold_open(place_of(deps))
    yield place
    await close()


@pytest.fixture
async def who(place: Place) -> AsyncIterator[httpx.AsyncClient]:
    async with place.browser() as client:
        yield client
    await place.deps.control.execute("delete from brolly.authorization_limits")


async def test_programs_find_the_way(who: httpx.AsyncClient) -> None:
    refused = await call(who, "bb_at_" + "0" * 40, "manage_app", action="list")
    assert refused.status_code == 401
    assert (
        'resource_metadata="http://brolly.test/.well-known/oauth-protected-resource"'
        in (refused.headers["www-authenticate"])
    )
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    resource = (await who.get("/.well-known/oauth-protected-resource/mcp")).json()
    assert (resource["resource"], resource["authorization_servers"]) == (f"{HERE}/mcp", [HERE])
    server = (await who.get("/.well-known/oauth-authorization-server")).json()
    assert server == (await who.get("/.well-known/openid-configuration")).json()
    assert server["issuer"] == HERE
    assert server["code_challenge_methods_supported"] == ["S256"]
    assert server["client_id_metadata_document_supported"] is True


async def test_without_a_password_the_page_says_what_to_do(place: Place, who: httpx.AsyncClient) -> None:
    deps, account = place.deps, place.account
    program = await Program.register(who)
    await owner.remove_password(deps, account)
    page = await who.get(program.url())
    assert page.status_code == 503
    assert "brolly owner password" in page.text
    await owner.set_password(deps, account, PASSWORD)


async def test_from_question_to_revocation(place: Place, who: httpx.AsyncClient) -> None:
    deps, account = place.deps, place.account
    program = await Program.register(who)
    page = await sign_in(who, program.url())
    assert "Test agent" in page.text
    assert "127.0.0.1:43210" in page.text
    told = answer(await decide(who, page))
    assert (told["state"], told["iss"]) == ("a state", HERE)
    done = await program.exchange(told["code"])
    assert done.headers["cache-control"] == "no-store"
    tokens = done.json()
    assert (tokens["scope"], tokens["token_type"], tokens["expires_in"]) == ("mcp", "Bearer", 3600)

    listed = await call(who, tokens["access_token"], "manage_api_keys", action="list")
    keys = json.loads(listed.json()["result"]["content"][0]["text"])["keys"]
    mine = next(key for key in keys if key["current"])
    assert (mine["name"], mine["client_id"], mine["scopes"]) == ("Test agent", program.id, ["*"])
    stored = await deps.control.fetch("select token_hash from brolly.oauth_tokens")
    assert all(len(row["token_hash"]) == 32 for row in stored)
    # Only /mcp takes it: elsewhere it is nothing.
    assert (await who.get("/apps", headers={"Authorization": f"Bearer {tokens['access_token']}"})).status_code == 401

    next_tokens = (await program.refresh(tokens["refresh_token"])).json()
    assert next_tokens["refresh_token"] != tokens["refresh_token"]
    done = await call(
        who, next_tokens["access_token"], "manage_api_keys", action="revoke", key_id=mine["id"], confirm=True
    )
    assert done.status_code == 200
    for token in (tokens, next_tokens):
        assert (await call(who, token["access_token"], "manage_app", action="list")).status_code == 401
        assert (await program.refresh(token["refresh_token"])).json()["error"] == "invalid_grant"
    events = await deps.control.fetch(
        "select event_type from brolly.audit_log where account_id = $1 and event_type like 'oauth.%'", account
    )
    assert {"oauth.owner_sign_in", "oauth.allow"} <= {row["event_type"] for row in events}


async def test_the_owner_gives_less_than_was_asked(place: Place, who: httpx.AsyncClient) -> None:
    deps, account = place.deps, place.account
    app_id, _ = await provision.create(deps, account, "oauth-one-app", "self-hosted")
    other, _ = await provision.create(deps, account, "oauth-other-app", "self-hosted")
    program = await Program.register(who)
    page = await sign_in(who, program.url())
    assert "oauth-one-app" in page.text
    code = answer(await decide(who, page, access="read", app=app_id))["code"]
    tokens = (await program.exchange(code)).json()
    assert tokens["scope"] == f"mcp:read app:{app_id}"

    async def says(app: str, action: str, **more: Any) -> str:
        done = await call(who, tokens["access_token"], "manage_schema", action=action, app_id=app, **more)
        return done.text

    assert 'isError":true' not in await says(app_id, "get")
    assert "RESOURCE_NOT_FOUND" in await says(other, "get")
    assert "AUTH_FORBIDDEN" in await says(
        app_id, "apply", schema={"tables": {"t": {"columns": {"id": {"type": "uuid"}}}}}
    )
    for each in (app_id, other):
        found = await deps.registry.find(each)
        assert found is not None
        await provision.delete(deps, found)


async def test_a_program_is_remembered_and_may_still_be_refused(who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    await program.tokens()
    page = await who.get(program.url())
    # Signed in still, but a program on this computer could be any: one more click.
    assert "You have let this program in before" in page.text
    told = answer(await decide(who, page, decision="deny"))
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", "a state", HERE)


async def test_a_code_of_an_authenticator_is_needed_and_good_once(place: Place, who: httpx.AsyncClient) -> None:
    deps, account = place.deps, place.account
    secret, _, address = owner.new_factor("owner", "here")
    assert address.startswith("otpauth://totp/Brolly%3Aowner%40here?secret=")
    step = int(time.time()) // STEP_SECONDS
    await owner.set_factor(deps, account, secret, totp(secret, step - 1))
    program = await Program.register(who)
    page = await who.get(program.url())
    assert 'autocomplete="one-time-code"' in page.text
    wrong = await who.post(program.url(), data={**hidden(page), "password": PASSWORD, "code": "000000"})
    assert wrong.status_code == 401
    assert not who.cookies
    code = totp(secret, step)
    assert "Test agent" in (await sign_in(who, program.url(), code=code)).text
    async with place.browser() as other:
        page = await other.get(program.url())
        again = await other.post(program.url(), data={**hidden(page), "password": PASSWORD, "code": code})
        assert again.status_code == 401
    await owner.set_factor(deps, account, None)
    stored = await deps.control.fetchval("select totp_secret from brolly.owner_logins where account_id = $1", account)
    assert stored is None


async def test_a_program_signs_itself_out(who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    tokens = await program.tokens()
    for token in (tokens["access_token"], tokens["refresh_token"], "bb_rt_unknown"):
        done = await who.post("/oauth/revoke", data={"token": token, "client_id": program.id})
        assert done.status_code == 200
    assert (await call(who, tokens["access_token"], "manage_app", action="list")).status_code == 401
    assert (await program.refresh(tokens["refresh_token"])).status_code == 400


async def test_any_port_of_this_machine_and_nothing_else_differs(who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    other = RETURN.replace("43210", "50111")
    code = await program.code(redirect_uri=other)
    assert (await program.exchange(code, redirect_uri=other)).status_code == 200
