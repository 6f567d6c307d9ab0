"""Providers that are down, slow, broken or lie: nobody is let in, the page is told, and nothing is an error of ours."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from brolly.auth import oauth_fetch
from brolly.auth.state import state_of
from brolly.core.networks import is_public
from brolly.deps import Deps
from tests.api.oauth_browser import HERE, PAGE, Browser, code_of, query_of, target_of
from tests.api.oauth_vendors import Break, Stage, callback, stage_of
from tests.conftest import hold_open

FAILED, DOWN = "oauth_provider_error", "oauth_provider_unavailable"
STRANGER = generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
async def shared(deps: Deps) -> AsyncIterator[Stage]:
    stage, close = await hold_open(stage_of(deps))
    await stage.configure("acme", discovered=True)
    await stage.configure("forge")
    yield stage
    await close()


@pytest.fixture
async def stage(shared: Stage) -> AsyncIterator[Stage]:
    shared.vendors.claims = {"email": "ann@example.com", "email_verified": True}
    shared.vendors.person = {"id": "f1", "email": "ann@example.com"}
    state_of(shared.deps).published.clear()
    yield shared
    shared.vendors.reset()
    assert not await shared.users(), "somebody was let in"


def answering(body: Any, status: int = 200, **headers: str) -> Break:
    async def answer(_request: Request) -> Response:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return Response(content, status, {"Content-Type": "application/json", **headers})

    return answer


async def never(_request: Request) -> Response:
    await anyio.sleep(2)
    return JSONResponse({})


async def elsewhere(request: Request) -> Response:
    return RedirectResponse(str(request.url).replace("token", "jwks"), 307)


BROKEN: list[tuple[str, str, Break, str]] = [
    ("acme", "openid-configuration", answering("<html>", 200), FAILED),
    ("acme", "openid-configuration", answering([1]), FAILED),
    ("acme", "openid-configuration", answering({"issuer": "https://other.example"}), FAILED),
    ("acme", "openid-configuration", answering("x", 500), DOWN),
    ("acme", "openid-configuration", answering("x" * 600_000), DOWN),
    ("acme", "openid-configuration", answering(b"\x1f\x8b", 200, **{"Content-Encoding": "gzip"}), DOWN),
    ("acme", "jwks", answering({"keys": []}), FAILED),
    ("acme", "jwks", answering({"keys": [{"kty": "oct", "k": "AAAA", "kid": "k1"}]}), FAILED),
    ("acme", "jwks", answering({"keys": ["x"]}), FAILED),
    ("acme", "jwks", answering({}), FAILED),
    ("acme", "jwks", answering("gone", 404), FAILED),
    ("acme", "token", answering({"error": "invalid_client"}, 401), FAILED),
    ("acme", "token", answering("<html>", 200), FAILED),
    ("acme", "token", answering("<html>", 429), DOWN),
    ("acme", "token", answering("<html>", 502), DOWN),
    ("acme", "token", answering("[" * 5000), FAILED),
    ("acme", "token", answering([]), FAILED),
    ("acme", "token", answering({}), FAILED),
    ("acme", "token", answering({"access_token": {"a": 1}}), FAILED),
    ("acme", "token", answering({"access_token": "a", "token_type": "Bearer"}), FAILED),
    ("acme", "token", answering({"access_token": "a", "id_token": 5}), FAILED),
    ("acme", "token", answering({"access_token": "a", "id_token": "a.b.c"}), FAILED),
    ("acme", "token", answering({"error": {"message": "odd"}}), FAILED),
    ("acme", "token", elsewhere, FAILED),
    ("acme", "token", never, DOWN),
    ("forge", "userinfo", answering({"message": "Bad credentials"}, 401), FAILED),
    ("forge", "userinfo", answering("null"), FAILED),
    ("forge", "userinfo", answering([]), FAILED),
    ("forge", "userinfo", answering({"email": "ann@example.com"}), FAILED),
    ("forge", "userinfo", answering(b"\xff\xfe\x00"), FAILED),
    ("forge", "userinfo", answering('{"id": "1", "email": "a@b.example"', 200), FAILED),
]


@pytest.mark.parametrize(("provider", "end", "broken", "error"), BROKEN)
async def test_a_provider_that_is_broken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, provider: str, end: str, broken: Break, error: str
) -> None:
    if broken is never:
        monkeypatch.setattr(oauth_fetch, "SECONDS", 0.3)
    stage.vendors.broken[end] = broken
    told = await stage.told(provider)
    assert told["error"] == error
    assert told["error_description"]


async def test_without_a_page_the_failure_is_answered_as_json(stage: Stage) -> None:
    stage.vendors.broken["token"] = answering({"error": "invalid_grant"}, 400)
    answer = await stage.sign_in("acme", page=None)
    assert (answer.status_code, code_of(answer)) == (400, "OAUTH_PROVIDER_ERROR")
    assert answer.json()["error"]["details"] == {"provider_error": "invalid_grant"}
    stage.vendors.broken["token"] = answering("", 503)
    answer = await stage.sign_in("acme", page=None)
    assert (answer.status_code, code_of(answer)) == (503, "OAUTH_PROVIDER_UNAVAILABLE")


def by(key: Any, algorithm: str = "RS256", kid: str | None = "k1") -> Callable[[dict[str, Any]], str]:
    return lambda claims: jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)


def changed(text: str) -> str:
    head, body, signature = text.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "admin"}).encode()).decode().rstrip("=")
    return f"{head}.{forged}.{signature}"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": ["{issuer}"]},
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"aud": ["shop", "another-client"], "azp": "another-client"},
        {"aud": None},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"iat": time.time() + 86400},
        {"nbf": time.time() + 86400},
        {"sub": None},
        {"sub": ""},
        {"sub": {"a": 1}},
        {"at_hash": "AAAA"},
    ],
)
async def test_an_id_token_that_is_not_for_this_sign_in(stage: Stage, claims: dict[str, Any]) -> None:
    issuer = stage.vendors.issuer("acme")
    stage.vendors.claims |= {k: [issuer] if v == ["{issuer}"] else v for k, v in claims.items()}
    assert (await stage.told("acme"))["error"] == FAILED


@pytest.mark.parametrize("forge", ["stranger", "none", "public-as-secret", "changed", "unknown-kid"])
async def test_an_id_token_that_the_provider_did_not_sign(stage: Stage, forge: str) -> None:
    public = stage.vendors.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
    forgeries: dict[str, Callable[[dict[str, Any]], str]] = {
        "stranger": by(STRANGER),
        "none": by(None, "none"),
        "public-as-secret": by(public, "HS256"),
        "changed": lambda claims: changed(stage.vendors.signed(claims)),
        "unknown-kid": by(stage.vendors.key, kid="k9"),
    }
    stage.vendors.sign = forgeries[forge]
    assert (await stage.told("acme"))["error"] == FAILED


async def test_user_information_about_somebody_else(stage: Stage) -> None:
    stage.vendors.claims = {"sub": "p1"}
    stage.vendors.person = {"sub": "p2", "email": "ann@example.com", "email_verified": True}
    assert (await stage.told("acme"))["error"] == FAILED


async def test_the_word_of_a_provider_is_passed_on_only_if_it_is_one(stage: Stage) -> None:
    for theirs, kept in (("access_denied", "access_denied"), ("<script>alert(1)</script>", None), ("x" * 999, None)):
        async with Browser(stage.deps) as browser:
            begun = query_of(await browser.start(stage.app, "acme", redirect_to=PAGE))
            answer = {"state": begun["state"], "error": theirs, "error_description": "<b>", "extra": "1"}
            landed = await browser.http.get(callback(stage, "acme"), params=answer)
            told = query_of(landed)
            assert (told["error"], told.get("provider_error")) == (FAILED, kept)
            assert "%3C" not in target_of(landed)


async def test_an_answer_with_neither_code_nor_error_or_of_another_issuer(stage: Stage) -> None:
    for answer in ({}, {"code": ""}, {"code": "x", "iss": "https://mixed-up.example"}):
        async with Browser(stage.deps) as browser:
            begun = query_of(await browser.start(stage.app, "acme", redirect_to=PAGE))
            landed = await browser.http.get(callback(stage, "acme"), params={"state": begun["state"], **answer})
            assert query_of(landed)["error"] == FAILED


@pytest.mark.parametrize(
    "query", ["", "state=", "state=%00", "state=x&state=y", "state=" + "x" * 5000, "state=%ff&code=%f0%9f", "code=x"]
)
async def test_a_callback_out_of_nowhere(stage: Stage, query: str) -> None:
    async with Browser(stage.deps) as browser:
        answer = await browser.http.get(f"{callback(stage, 'acme')}?{query}", headers={b"Cookie": b'a="; b=\xff'})
        assert answer.status_code == 400
        assert code_of(answer) in ("OAUTH_STATE_INVALID", "VALIDATION_INVALID_SCHEMA")
        posted = await browser.http.post(callback(stage, "acme"), content=query)
        assert posted.status_code in (303, 400)
        if posted.status_code == 303:
            assert target_of(posted).startswith(f"{HERE}/auth/{stage.app.id}/oauth/acme/callback")


async def test_looking_begins_nothing_and_uses_nothing_up(stage: Stage) -> None:
    async with Browser(stage.deps) as browser:
        begun = query_of(await browser.start(stage.app, "acme"))
        for path in (f"/auth/{stage.app.id}/oauth/acme", callback(stage, "acme")):
            looked = await browser.http.head(path, params={"state": begun["state"], "code": "x"})
            assert (looked.status_code, looked.headers["allow"]) == (405, "GET")
        assert len(await stage.execute("select from auth.oauth_states")) == 1
        await stage.execute("delete from auth.oauth_states")


async def test_a_long_document_is_not_kept(stage: Stage) -> None:
    ends = {f"{name}_endpoint": f"{stage.vendors.base}/acme/{name}" for name in ("authorization", "token")}
    found = {"issuer": stage.vendors.issuer("acme"), "jwks_uri": f"{stage.vendors.base}/acme/jwks", **ends}
    for filling, kept in (("x" * 40_000, 0), ("x", 1)):
        stage.vendors.broken["openid-configuration"] = answering({**found, "filling": filling})
        async with Browser(stage.deps) as browser:
            assert (await browser.start(stage.app, "acme")).status_code == 302
        assert len(state_of(stage.deps).published) == kept
    await stage.execute("delete from auth.oauth_states")


async def test_a_posted_answer_is_bounded_and_only_what_is_known_goes_on(stage: Stage) -> None:
    async with Browser(stage.deps) as browser:
        large = await browser.http.post(callback(stage, "acme"), content="state=" + "x" * 20_000)
        assert code_of(large) == "REQUEST_TOO_LARGE"
        twice = await browser.http.post(callback(stage, "acme"), content="state=a&state=b")
        assert code_of(twice) == "VALIDATION_INVALID_SCHEMA"
        posted = await browser.http.post(
            callback(stage, "acme"), content="state=a%26b&redirect_to=https://evil.example"
        )
        assert query_of(posted) == {"state": "a&b"}


@pytest.mark.parametrize("name", ["nobody", "ACME", "%00", "a" * 90, "email", "..%2f"])
async def test_a_provider_that_is_not_configured(stage: Stage, name: str) -> None:
    async with Browser(stage.deps) as browser:
        answer = await browser.http.get(f"/auth/{stage.app.id}/oauth/{name}")
        assert answer.status_code == 404
        assert (await browser.http.get(f"/auth/app_000000000000/oauth/{name}")).status_code == 404


async def test_a_provider_that_was_switched_off_meanwhile(stage: Stage) -> None:
    async def change(enabled: bool) -> None:
        arguments = {"app_id": stage.app.id, "provider": "acme", "enabled": enabled}
        await stage.deps.tools["manage_oauth"].run(stage.deps, stage.owner, "update", arguments)

    async with Browser(stage.deps) as browser:
        begun = query_of(await browser.start(stage.app, "acme", redirect_to=PAGE))
        await change(False)
        landed = await browser.http.get(callback(stage, "acme"), params={"code": "x", "state": begun["state"]})
        assert query_of(landed)["error"] == "resource_not_found"
        assert (await browser.start(stage.app, "acme")).status_code == 404
    await change(True)


async def test_without_the_setting_the_servers_own_network_is_not_called(stage: Stage) -> None:
    closed = replace(stage.deps, settings=replace(stage.deps.settings, allow_private_network=False))
    before = len(stage.vendors.asked)
    async with Browser(closed) as browser:
        told = query_of(await browser.start(stage.app, "acme", redirect_to=PAGE))
        assert told["error"] == DOWN
        # Addresses given by hand are called only when there is a code.
        begun = query_of(await browser.start(stage.app, "forge", redirect_to=PAGE))
        landed = await browser.http.get(callback(stage, "forge"), params={"code": "x", "state": begun["state"]})
        assert query_of(landed)["error"] == DOWN
    assert len(stage.vendors.asked) == before


async def test_a_name_that_leads_into_the_own_network_is_not_called(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def rebinding(name: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(name)
        return [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", ("169.254.169.254", 443))]

    monkeypatch.setattr(oauth_fetch.anyio, "getaddrinfo", rebinding)
    closed = replace(stage.deps, settings=replace(stage.deps.settings, allow_private_network=False))
    metadata = {"issuer": "https://id.rebinding.example"}
    await stage.configure(
        "rebound",
        discovered=False,
        authorization_url=None,
        token_url=None,
        userinfo_url=None,
        provider_metadata=metadata,
    )
    async with Browser(closed) as browser:
        assert query_of(await browser.start(stage.app, "rebound", redirect_to=PAGE))["error"] == DOWN
    assert asked == ["id.rebinding.example"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a9fe:a9fe::1", "ff02::1", "2001:db8::1", "nonsense", "",
    ],
)  # fmt: skip
def test_an_address_of_the_own_network(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_an_address_of_the_public_network(address: str) -> None:
    assert is_public(address)
