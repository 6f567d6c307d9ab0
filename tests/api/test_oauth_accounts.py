"""Into which account somebody from a provider is let, and into which not."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from brolly.core.totp import STEP_SECONDS, totp
from brolly.deps import Deps
from tests.api.oauth_browser import PAGE, Browser, code_of, query_of
from tests.api.oauth_vendors import Stage, callback, stage_of
from tests.conftest import hold_open, http_client

PASSWORD = "Correct-horse-7"


@pytest.fixture(scope="module")
async def shared(deps: Deps) -> AsyncIterator[Stage]:
    stage, close = await hold_open(stage_of(deps))
    await stage.configure("acme", discovered=True)
    await stage.configure("facebook")
    yield stage
    await close()


@pytest.fixture
async def stage(shared: Stage) -> AsyncIterator[Stage]:
    shared.vendors.claims = {"email": "ann@example.com", "email_verified": True}
    shared.vendors.person = {"id": "f1", "name": "Ann", "email": "ann@example.com"}
    yield shared
    shared.vendors.reset()
    await shared.execute("delete from auth.users")


async def post(stage: Stage, path: str, credential: str | None = None, /, **body: Any) -> Any:
    async with http_client(stage.deps, credential) as client:
        return await client.post(f"/auth/{stage.app.id}/{path}", json=body)


async def sign_up(stage: Stage, *, confirmed: bool, email: str = "ann@example.com") -> None:
    assert (await post(stage, "signup", email=email, password=PASSWORD)).status_code == 201
    await stage.execute("update auth.users set email_verified = $1 where email = $2", confirmed, email)


async def log_in(stage: Stage) -> Any:
    return await post(stage, "login", email="ann@example.com", password=PASSWORD)


async def test_a_confirmed_account_is_joined_and_keeps_its_password(stage: Stage) -> None:
    await sign_up(stage, confirmed=True)
    assert "access_token" in await stage.told("acme")
    user = (await stage.users())["ann@example.com"]
    assert (user["identities"], user["provider"]) == (["acme:p1"], "email")
    assert (await log_in(stage)).status_code == 200


async def test_the_hook_is_told_who_came_and_by_which_provider(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    async def keep(_deps: Any, _app: Any, _connection: Any, payload: Any) -> None:
        told.append(payload)
        raise RuntimeError("a hook keeps nobody out")

    monkeypatch.setitem(stage.deps.capabilities, "keep_auth_hook", keep)  # type: ignore[arg-type]
    for hook in ("welcome", None):
        await stage.deps.control.execute(
            "update brolly.apps set auth_hook_function = $2 where id = $1", stage.app.id, hook
        )
        await stage.deps.registry.changed(stage.app.id)
        if hook:
            for _ in range(2):
                assert "access_token" in await stage.told("acme")
    assert [(event["event"], event["provider"], event["isNewUser"]) for event in told] == [
        ("oauth_login", "acme", True),
        ("oauth_login", "acme", False),
    ]
    assert (told[0]["user"]["email"], told[0]["user"]["provider"]) == ("ann@example.com", "acme")


async def test_an_unconfirmed_account_is_taken_over_whole(stage: Stage) -> None:
    """Somebody signed up with Ann's address and waits for her to come."""
    await sign_up(stage, confirmed=False)
    waiting = (await log_in(stage)).json()
    assert "access_token" in await stage.told("acme")
    assert (await stage.users())["ann@example.com"]["email_verified"] is True
    assert code_of(await log_in(stage)) == "AUTH_INVALID_CREDENTIALS"
    again = await post(stage, "refresh", refresh_token=waiting["refresh_token"])
    assert code_of(again) == "AUTH_INVALID_REFRESH_TOKEN"


async def test_an_identity_with_an_unverified_address_is_no_way_to_wait_either(stage: Stage) -> None:
    assert "access_token" in await stage.told("facebook")
    assert "access_token" in await stage.told("acme")
    assert (await stage.users())["ann@example.com"]["identities"] == ["acme:p1"]
    assert (await stage.told("facebook"))["error"] == "oauth_email_not_verified"


async def test_a_code_from_the_mailbox_shuts_such_an_identity_out_too(stage: Stage) -> None:
    tokens = await stage.told("facebook")
    row = (await stage.execute("select body from auth.outbox where kind = 'verify_email' order by id desc limit 1"))[0]
    code = row["body"].split(": ")[1][:6]
    # With the account's own token it is the person who signed in that confirms: the identity stays.
    done = await post(stage, "verify-email", tokens["access_token"], email="ann@example.com", code=code)
    assert done.status_code == 200
    user = (await stage.users())["ann@example.com"]
    assert (user["email_verified"], user["identities"]) == (True, ["facebook:f1"])
    await stage.execute("update auth.users set email_verified = false")
    await post(stage, "verify-email/resend", email="ann@example.com")
    row = (await stage.execute("select body from auth.outbox where kind = 'verify_email' order by id desc limit 1"))[0]
    await post(stage, "verify-email", email="ann@example.com", code=row["body"].split(": ")[1][:6])
    user = (await stage.users())["ann@example.com"]
    assert (user["email_verified"], user["identities"]) == (True, [])


@pytest.mark.parametrize("confirmed", [True, False])
async def test_an_address_that_the_provider_does_not_vouch_for_joins_nothing(stage: Stage, confirmed: bool) -> None:
    await sign_up(stage, confirmed=confirmed)
    stage.vendors.claims["email_verified"] = False
    assert (await stage.told("acme"))["error"] == "oauth_email_not_verified"
    answer = await stage.sign_in("facebook", page=None)
    assert (answer.status_code, code_of(answer)) == (409, "OAUTH_EMAIL_NOT_VERIFIED")
    user = (await stage.users())["ann@example.com"]
    assert (user["identities"], user["email_verified"]) == ([], confirmed)
    assert (await log_in(stage)).status_code == 200


async def test_whoever_was_given_the_address_later_is_another_person(stage: Stage) -> None:
    await stage.told("acme")
    stage.vendors.claims["sub"] = "p2"
    told = await stage.told("acme")
    assert told["error"] == "oauth_identity_already_linked"
    assert code_of(await stage.sign_in("acme", page=None)) == "OAUTH_IDENTITY_ALREADY_LINKED"
    assert (await stage.users())["ann@example.com"]["identities"] == ["acme:p1"]


async def test_a_person_is_known_whatever_the_address_is_now(stage: Stage) -> None:
    await stage.told("acme")
    stage.vendors.claims["email"] = "married@example.com"
    await stage.told("acme")
    users = await stage.users()
    assert list(users) == ["ann@example.com"]
    rows = await stage.execute("select email, last_sign_in_at > created_at as later from auth.identities")
    assert [tuple(row) for row in rows] == [("married@example.com", True)]


async def test_one_user_may_have_several_providers_which_the_owner_sees(stage: Stage) -> None:
    await stage.told("acme")
    await stage.configure("google", discovered=True)
    await stage.told("google")
    user = (await stage.users())["ann@example.com"]
    arguments = {"app_id": stage.app.id, "user_id": str(user["id"])}
    shown = await stage.deps.tools["manage_auth_users"].run(stage.deps, stage.owner, "get", arguments)
    assert [(i["provider"], i["provider_uid"], i["email"]) for i in shown["user"]["identities"]] == [
        ("acme", "p1", "ann@example.com"),
        ("google", "p1", "ann@example.com"),
    ]
    assert shown["user"]["has_password"] is False


async def test_who_has_a_second_factor_is_asked_for_it(stage: Stage) -> None:
    tokens = await stage.told("acme")
    secret = (await post(stage, "mfa/enroll", tokens["access_token"])).json()["secret"]
    raw = base64.b32decode(secret)
    step = int(time.time()) // STEP_SECONDS
    done = await post(stage, "mfa/activate", tokens["access_token"], code=totp(raw, step - 1))
    assert done.status_code == 200
    told = await stage.told("acme")
    assert told["error"] == "mfa_required"
    assert "access_token" not in told
    body = (await stage.sign_in("acme", page=None)).json()
    assert (body["error"]["code"], body["mfa_token"]) == ("MFA_REQUIRED", body["mfaToken"])
    entered = await post(stage, "mfa/verify", mfa_token=body["mfa_token"], code=totp(raw, step))
    assert "access_token" in entered.json()


async def test_an_account_without_a_mailbox_can_have_a_second_factor(stage: Stage) -> None:
    stage.vendors.claims, stage.vendors.person = {}, {"sub": "p1"}
    tokens = await stage.told("acme")
    assert (await post(stage, "mfa/enroll", tokens["access_token"])).status_code == 200
    stage.vendors.claims = {"sub": "p9", "email": "new@example.com", "email_verified": False}
    tokens = await stage.told("acme")
    assert code_of(await post(stage, "mfa/enroll", tokens["access_token"])) == "AUTH_FORBIDDEN"


async def test_a_disabled_user_stays_out(stage: Stage) -> None:
    await stage.told("acme")
    await stage.execute("update auth.users set disabled_at = now()")
    assert (await stage.told("acme"))["error"] == "account_disabled"
    assert not await stage.execute("select from auth.sessions where created_at > (select disabled_at from auth.users)")


@pytest.mark.parametrize("path", ["signup", "login", "magic-link", "forgot-password", "verify-email/resend"])
async def test_an_address_that_stands_in_is_nobodys_to_type(stage: Stage, path: str) -> None:
    stage.vendors.claims, stage.vendors.person = {}, {"sub": "p1"}
    assert "access_token" in await stage.told("acme")
    body: dict[str, Any] = {"email": "P1@users.noreply.acme.local"}
    response = await post(stage, path, **body, **({"password": PASSWORD} if path in ("signup", "login") else {}))
    assert (response.status_code, code_of(response)) == (400, "VALIDATION_INVALID_SCHEMA")
    assert not await stage.execute("select from auth.outbox where recipient like '%noreply%'")


async def test_two_browsers_of_a_new_person_at_once_make_one_account(stage: Stage) -> None:
    told = await asyncio.gather(*(stage.told("acme") for _ in range(4)))
    assert all("access_token" in one for one in told)
    assert len(await stage.users()) == 1


async def test_two_providers_at_once_do_not_end_in_a_failure_of_ours(stage: Stage) -> None:
    await stage.configure("google", discovered=True)
    told = await asyncio.gather(stage.told("acme"), stage.told("google"), stage.told("acme"), stage.told("google"))
    assert {one.get("error", "") for one in told} <= {"", "resource_conflict"}
    assert list(await stage.users()) == ["ann@example.com"]


async def test_what_happened_is_in_the_audit_log(stage: Stage) -> None:
    await stage.told("acme")
    stage.vendors.claims["email_verified"], stage.vendors.claims["sub"] = False, "p3"
    await stage.told("acme")
    user = str((await stage.users())["ann@example.com"]["id"])
    found: dict[str, Any] = {}
    with_limit = {"app_id": stage.app.id, "category": "auth", "limit": 10}
    for _ in range(50):
        found = await stage.deps.tools["query_audit_logs"].run(stage.deps, stage.owner, "", with_limit)
        if len(found["logs"]) >= 3:
            break
        await asyncio.sleep(0.05)
    seen = [(e["event_type"], e["success"], e["resource_id"], e["event_data"].get("code")) for e in found["logs"][:3]]
    assert seen == [
        ("auth.oauth_login", False, None, "OAUTH_EMAIL_NOT_VERIFIED"),
        ("auth.oauth_login", True, user, None),
        ("auth.signup", True, user, None),
    ]


async def test_attempts_are_limited_by_address(stage: Stage) -> None:
    few = replace(stage.deps, settings=replace(stage.deps.settings, auth_limit_factor=1))
    await stage.execute("delete from auth.limits")
    async with Browser(few) as browser:
        codes = [(await browser.start(stage.app, "acme")).status_code for _ in range(31)]
        assert codes == [302] * 30 + [429]
        back = [await browser.http.get(callback(stage, "acme"), params={"state": "x"}) for _ in range(31)]
        assert [code_of(b) for b in back] == ["OAUTH_STATE_INVALID"] * 30 + ["QUOTA_RATE_LIMIT"]
    await stage.execute("delete from auth.limits")


async def test_a_server_that_only_reads_lets_nobody_in(stage: Stage) -> None:
    reading = replace(stage.deps, settings=replace(stage.deps.settings, read_only=True))
    async with Browser(reading) as browser:
        assert code_of(await browser.start(stage.app, "acme", redirect_to=PAGE)) == "AUTH_FORBIDDEN"
        assert code_of(await browser.http.get(callback(stage, "acme"), params={"state": "x"})) == "AUTH_FORBIDDEN"


async def test_what_is_over_is_swept_and_what_is_stored_tells_nothing(stage: Stage) -> None:
    await stage.execute("delete from auth.oauth_states")
    async with Browser(stage.deps) as browser:
        begun = query_of(await browser.start(stage.app, "acme", redirect_to=PAGE))
        cookie = next(c for c in browser.http.cookies.jar if c.name.startswith("brolly_oauth_"))
        row = (await stage.execute("select * from auth.oauth_states order by expires_at desc limit 1"))[0]
        for secret in (begun["state"], cookie.value, begun["nonce"]):
            assert secret
            assert secret.encode() not in b"".join(v for v in dict(row).values() if isinstance(v, bytes))
        assert cookie.path == f"/auth/{stage.app.id}/oauth/acme"
        assert cookie.has_nonstandard_attr("HttpOnly")
        await stage.execute("update auth.oauth_states set expires_at = now() - interval '1 second'")
        await browser.start(stage.app, "acme")
        assert len(await stage.execute("select from auth.oauth_states")) == 1
        begun = query_of(await browser.start(stage.app, "acme", redirect_to=PAGE))
        await stage.execute("update auth.oauth_states set expires_at = now() - interval '1 second'")
        late = await browser.http.get(callback(stage, "acme"), params={"code": "x", "state": begun["state"]})
        assert code_of(late) == "OAUTH_STATE_INVALID"


async def test_the_cookie_is_for_encrypted_ways_alone_where_there_is_one(stage: Stage) -> None:
    public = replace(stage.deps, settings=replace(stage.deps.settings, public_url="https://api.example/base/"))
    async with Browser(public) as browser:
        await stage.configure("acme", discovered=True, redirect_uris=["https://api.example/x", callback(stage, "acme")])
        begun = await browser.start(stage.app, "acme")
        cookie = begun.headers["set-cookie"]
        assert "Secure" in cookie
        assert f"Path=/base/auth/{stage.app.id}/oauth/acme;" in cookie
        assert query_of(begun)["redirect_uri"] == "https://api.example/x"
    await stage.configure("acme", discovered=True)
