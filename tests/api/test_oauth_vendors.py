"""What only one vendor does: each in its documented format, from a program that speaks it over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from brolly.auth.oauth_profiles import (
    email_of,
    github_address,
    read_claims,
    read_custom,
    read_discord,
    read_facebook,
    read_microsoft,
    read_x,
)
from brolly.auth.oauth_providers import is_microsoft_issuer
from brolly.core.errors import AppError
from brolly.deps import Deps
from tests.api.oauth_browser import Browser, query_of
from tests.api.oauth_vendors import APPLE_KEY, APPLE_PEM, SECRET, Stage, stage_of
from tests.conftest import hold_open


@pytest.fixture(scope="module")
async def shared(deps: Deps) -> AsyncIterator[Stage]:
    stage, close = await hold_open(stage_of(deps))
    yield stage
    await close()


@pytest.fixture
async def stage(shared: Stage) -> AsyncIterator[Stage]:
    yield shared
    shared.vendors.reset()
    await shared.execute("delete from auth.users")


async def test_github_gives_the_verified_primary_address(stage: Stage) -> None:
    await stage.configure("github")
    stage.vendors.person = {
        "id": 7,
        "login": "pat",
        "name": None,
        "email": "public@example.com",
        "avatar_url": "https://a.example/7",
    }
    stage.vendors.emails = [
        {"email": "unverified@example.com", "primary": False, "verified": False},
        {"email": "second@example.com", "primary": False, "verified": True},
        {"email": "Pat@Example.com", "primary": True, "verified": True},
    ]
    assert "access_token" in await stage.told("github")
    user = (await stage.users())["pat@example.com"]
    assert (user["email_verified"], user["display_name"], user["avatar_url"]) == (True, "pat", "https://a.example/7")
    assert (user["provider"], user["provider_uid"], user["identities"]) == ("github", "7", ["github:7"])
    asked = [form for form in stage.vendors.asked if form.get("client_secret")][-1]
    assert (asked["client_secret"], asked.get("by")) == (SECRET, None)
    assert len(asked["code_verifier"]) == 64


async def test_githubs_refusal_with_status_200_is_one(stage: Stage) -> None:
    await stage.configure("github")
    async with Browser(stage.deps) as browser:
        begun = query_of(await browser.start(stage.app, "github", redirect_to="https://shop.example/x"))
        path = f"/auth/{stage.app.id}/oauth/github/callback"
        told = query_of(await browser.http.get(path, params={"code": "stale", "state": begun["state"]}))
    assert (told["error"], told["provider_error"]) == ("oauth_provider_error", "bad_verification_code")


@pytest.mark.parametrize(
    "answer", [[], {}, None, [{"email": "a@b.example", "verified": "true"}], [{"email": 5, "verified": True}], ["x"]]
)
def test_an_address_that_github_does_not_call_verified_is_none(answer: Any) -> None:
    assert github_address(answer) is None


async def test_discord(stage: Stage) -> None:
    await stage.configure("discord")
    stage.vendors.person = {
        "id": "80",
        "username": "nelly",
        "global_name": "Nelly",
        "avatar": "8342",
        "verified": True,
        "email": "n@example.com",
    }
    assert "access_token" in await stage.told("discord")
    user = (await stage.users())["n@example.com"]
    assert (user["email_verified"], user["display_name"]) == (True, "Nelly")
    assert user["avatar_url"] == "https://cdn.discordapp.com/avatars/80/8342.png"
    assert not read_discord({"id": "80", "email": "n@example.com", "verified": False}).verified
    stage.vendors.person = {"id": "81", "username": "quiet"}
    await stage.told("discord")
    assert (await stage.users())["81@users.noreply.discord.local"]["email_verified"] is False


async def test_facebook_never_says_that_an_address_is_verified(stage: Stage) -> None:
    await stage.configure("facebook")
    stage.vendors.person = {
        "id": "10",
        "name": "Fay",
        "email": "fay@example.com",
        "picture": {"data": {"url": "https://f.example/10"}},
    }
    assert "access_token" in await stage.told("facebook")
    user = (await stage.users())["fay@example.com"]
    assert (user["email_verified"], user["avatar_url"]) == (False, "https://f.example/10")
    query = stage.vendors.asked[-1]
    assert query["fields"] == "id,name,email,picture"
    assert len(query["appsecret_proof"]) == 64
    # As after signup, a code to confirm the address waits.
    rows = await stage.execute("select recipient from auth.outbox where kind = 'verify_email'")
    assert [row["recipient"] for row in rows] == ["fay@example.com"]
    assert read_facebook({"id": "1", "picture": "odd"}).avatar_url is None


async def test_x_has_no_address_and_wants_basic(stage: Stage) -> None:
    await stage.configure("x")
    stage.vendors.person = {
        "data": {"id": "2244", "name": "Dev", "username": "XDevelopers", "profile_image_url": "https://x.example/1"}
    }
    assert "access_token" in await stage.told("x")
    user = (await stage.users())["xdevelopers@users.noreply.x.local"]
    assert (user["email_verified"], user["display_name"]) == (False, "Dev")
    assert stage.vendors.asked[-2]["by"] == "basic"
    # User names change hands: another person with this one gets another account, whatever it is called.
    stage.vendors.person = {"data": {"id": "99", "name": "Other", "username": "XDevelopers"}}
    assert "access_token" in await stage.told("x")
    users = await stage.users()
    assert users["99@users.noreply.x.local"]["identities"] == ["x:99"]
    assert users["xdevelopers@users.noreply.x.local"]["identities"] == ["x:2244"]


async def test_x_with_the_scope_for_it_has_a_confirmed_address(stage: Stage) -> None:
    await stage.configure("x", scopes=["tweet.read", "users.read", "users.email"])
    stage.vendors.person = {"data": {"id": "1", "username": "pat", "confirmed_email": "pat@example.com"}}
    await stage.told("x")
    assert stage.vendors.asked[-1]["user.fields"] == "profile_image_url,confirmed_email"
    assert (await stage.users())["pat@example.com"]["email_verified"] is True


async def test_apple_posts_its_answer_and_gets_a_signed_secret(stage: Stage) -> None:
    keys = {"teamId": "TEAM", "keyId": "KEY", "privateKey": APPLE_PEM.replace("\n", "\\n")}
    await stage.configure("apple", discovered=True, client_secret=None, provider_metadata=keys)
    stage.vendors.claims = {
        "sub": "001.a",
        "name": None,
        "email": "x7@privaterelay.appleid.com",
        "email_verified": "true",
    }
    stage.vendors.user = json.dumps({"name": {"firstName": "Ada", "lastName": "L"}, "email": "ignored@example.com"})
    stage.vendors.person = {"sub": "001.a"}
    assert "access_token" in await stage.told("apple")
    user = (await stage.users())["x7@privaterelay.appleid.com"]
    assert (user["email_verified"], user["display_name"], user["identities"]) == (True, "Ada L", ["apple:001.a"])
    secret = next(f["client_secret"] for f in reversed(stage.vendors.asked) if "client_secret" in f)
    issuer = stage.vendors.issuer("apple")
    claims = jwt.decode(secret, APPLE_KEY.public_key(), ["ES256"], audience=issuer, issuer="TEAM")
    assert jwt.get_unverified_header(secret)["kid"] == "KEY"
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("shop", 300)


async def test_linkedin_gets_no_challenge_and_gives_no_nonce(stage: Stage) -> None:
    await stage.configure("linkedin", discovered=True)
    stage.vendors.claims = {"email": "lin@example.com", "email_verified": True}
    async with Browser(stage.deps) as browser:
        asked = query_of(await browser.start(stage.app, "linkedin"))
        assert "code_challenge" not in asked
        assert "nonce" not in asked
        assert "access_token" in query_of(await stage.sign_in("linkedin", browser))
    assert (await stage.users())["lin@example.com"]["email_verified"] is True


@pytest.mark.parametrize(
    ("claim", "verified"),
    [
        ({}, False),
        ({"email_verified": True}, False),
        ({"xms_edov": False}, False),
        ({"xms_edov": "0"}, False),
        ({"xms_edov": True}, True),
        ({"xms_edov": 1}, True),
        ({"xms_edov": "1"}, True),
    ],
)
async def test_microsofts_address_is_what_an_administrator_wrote(
    stage: Stage, claim: dict[str, Any], verified: bool
) -> None:
    await stage.configure("microsoft", discovered=True)
    stage.vendors.claims = {"email": "ceo@example.com", **claim}
    await stage.told("microsoft")
    assert (await stage.users())["ceo@example.com"]["email_verified"] is verified


TENANT, OTHER = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"


@pytest.mark.parametrize(
    ("issuer", "tid", "tenant", "right"),
    [
        (TENANT, TENANT, "common", True),
        (TENANT, TENANT, TENANT, True),
        (CONSUMERS, CONSUMERS, "consumers", True),
        (TENANT, TENANT, "organizations", True),
        # All tenants sign with the same keys: who signs for another is refused.
        (TENANT, OTHER, "common", False),
        (OTHER, OTHER, TENANT, False),
        (CONSUMERS, CONSUMERS, "organizations", False),
        (TENANT, TENANT, "consumers", False),
        ("{tenantid}", "{tenantid}", "common", False),
        ("common", "common", "common", False),
        (TENANT, None, "common", False),
    ],
)
def test_microsofts_issuer_is_that_of_the_tenant(issuer: str, tid: Any, tenant: str, right: bool) -> None:
    address = f"https://login.microsoftonline.com/{issuer}/v2.0"
    assert is_microsoft_issuer(address, {"tid": tid}, tenant) is right


async def test_a_plain_oauth_provider_of_the_owners(stage: Stage) -> None:
    await stage.configure("forge", scopes=["read_user"])
    stage.vendors.person = {"id": 5, "username": "kim", "email": "kim@example.com", "avatar_url": "http://not-https"}
    assert "access_token" in await stage.told("forge")
    user = (await stage.users())["kim@example.com"]
    assert (user["email_verified"], user["display_name"], user["avatar_url"]) == (False, "kim", None)
    await stage.configure("forge", scopes=["read_user"], provider_metadata={"trust_email": True, "token_auth": "post"})
    stage.vendors.person = {"id": 6, "email": "lee@example.com"}
    await stage.told("forge")
    assert (await stage.users())["lee@example.com"]["email_verified"] is True
    assert "by" not in stage.vendors.asked[-2]


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("Ann@Example.com", "ann@example.com"),
        ("\uff41nn@example.com", None),
        ("\u212aate@example.com", None),
        ("zo\u00eb@example.com", "zo\u00eb@example.com"),
        ("ann@users.noreply.x.local", None),
    ],
)
def test_an_address_that_only_folds_into_anothers_is_not_theirs(told: str, read: str | None) -> None:
    assert email_of(told) == read


@pytest.mark.parametrize("uid", [None, "", True, 1.5, [], {}, "x" * 256, "a\0b"])
def test_without_an_id_nobody_can_be_told_from_another(uid: Any) -> None:
    with pytest.raises(AppError) as failed:
        read_claims({"sub": uid, "email": "a@example.com"})
    assert failed.value.code == "OAUTH_PROVIDER_ERROR"


def test_what_a_provider_writes_is_cut_and_cleaned() -> None:
    person = read_custom(
        {"id": 0, "name": "a\0b\u202ec" + "x" * 500, "email": "not an address", "picture": "javascript:1"}
    )
    assert (person.uid, person.email, person.avatar_url, person.verified) == ("0", None, None, False)
    assert person.name is not None
    assert person.name.startswith("abcx")
    assert len(person.name) == 200
    assert read_claims({"sub": "1", "email": "5@users.noreply.x.local", "email_verified": True}).email is None
    assert read_claims({"sub": "a|b", "name": {}}).addresses("my_id")[0].endswith("@users.noreply.my-id.local")
    assert read_microsoft({"sub": "1"}).avatar_url is None
    assert read_x({"data": {"id": "1", "username": "../x"}}).addresses("x") == ["1@users.noreply.x.local"]
