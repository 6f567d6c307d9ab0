"""What others try with codes, tokens, forms and addresses, and the SDK's own client beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import httpx2
import pytest
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

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


async def test_a_code_that_comes_twice_ends_what_came_of_it(who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    code = await program.code()
    tokens = (await program.exchange(code)).json()
    assert (await program.exchange(code)).json()["error"] == "invalid_grant"
    assert (await call(who, tokens["access_token"], "manage_app", action="list")).status_code == 401


async def test_a_code_is_its_programs_and_one_guess_uses_it_up(who: httpx.AsyncClient) -> None:
    program, thief = await Program.register(who), await Program.register(who)
    wrong: tuple[dict[str, str], ...] = (
        {"client_id": thief.id},
        {"code_verifier": "x" * 43},
        {"code_verifier": ""},
        {"redirect_uri": RETURN.replace("43210", "1")},
    )
    for changed in wrong:
        code = await program.code()
        assert (await program.exchange(code, **changed)).json()["error"] == "invalid_grant"
        assert (await program.exchange(code)).json()["error"] == "invalid_grant"
    refused = await program.exchange(await program.code(), resource="https://other.example/mcp")
    assert refused.json()["error"] == "invalid_target"


async def test_a_refresh_token_that_comes_late_again_ends_all(place: Place, who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    first = await program.tokens()
    second = (await program.refresh(first["refresh_token"])).json()
    assert (await program.refresh(second["refresh_token"], scope="mcp app:app_x")).json()["error"] == "invalid_scope"
    other = await Program.register(who)
    assert (await other.refresh(second["refresh_token"])).json()["error"] == "invalid_grant"
    less = (await program.refresh(second["refresh_token"], scope="mcp:read")).json()
    assert less["scope"] == "mcp:read"
    await place.deps.control.execute("update brolly.oauth_tokens set used_at = used_at - interval '1 minute'")
    assert (await program.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await program.refresh(less["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await call(who, second["access_token"], "manage_app", action="list")).status_code == 401


async def test_the_browser_goes_nowhere_but_where_the_program_said(who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    await sign_in(who, program.url())
    for wrong in (
        "https://evil.example/callback",
        "http://127.0.0.1.evil.example:43210/callback",
        "http://127.0.0.1:43210/callback/../other",
        "http://user@127.0.0.1:43210/callback",
        "http://127.0.0.1:43210/callback?code=x",
        "http://localhost:43210/callback",
        "https://127.0.0.1:43210/callback",
        "javascript:alert(1)",
        "",
    ):
        page = await who.get(program.url(redirect_uri=wrong))
        assert (page.status_code, "location" in page.headers) == (400, False), wrong
    for bad in ("javascript:alert(1)", "http://evil.example/x", "https://a.example/x#y", "data:text/html,x"):
        made = await who.post("/oauth/register", json={"redirect_uris": [bad]})
        assert made.json()["error"] == "invalid_redirect_uri", bad


async def test_without_proof_of_the_beginning_no_code_is_given(who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    await sign_in(who, program.url())
    for changed, error in (
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"without": "code_challenge_method"}, "invalid_request"),
        ({"without": "code_challenge"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"scope": "mcp admin"}, "invalid_scope"),
    ):
        told = answer(await who.get(program.url(**changed)))
        assert (told["error"], told["iss"], told["state"]) == (error, HERE, "a state")


async def test_a_form_of_another_site_or_question_allows_nothing(place: Place, who: httpx.AsyncClient) -> None:
    program, other = await Program.register(who), await Program.register(who)
    page = await sign_in(who, program.url())
    form = {"access": "full", "app": "", "decision": "allow", **hidden(page)}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert (await who.post(program.url(), data=form, headers=headers)).status_code == 403
    assert (await who.post(program.url(), data={**form, "proof": ""})).status_code == 403
    assert (await who.post(other.url(), data=form)).status_code == 403
    narrow = await who.get(program.url(scope="mcp:read"))
    assert (await decide(who, narrow, access="full")).status_code == 400
    made = await place.deps.control.fetchval(
        "select count(*) from brolly.oauth_codes where client_id = any($1::text[])", [program.id, other.id]
    )
    assert made == 0


async def test_a_programs_name_is_text_on_a_page_that_nobody_frames(who: httpx.AsyncClient) -> None:
    program = await Program.register(who, '<script>alert(1)</script>"\u202eevil')
    page = await sign_in(who, program.url(state='"><script>alert(2)</script>'))
    assert "<script" not in page.text
    assert "\u202e" not in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY"


async def test_guesses_are_counted_and_do_not_shut_the_owner_out(place: Place, who: httpx.AsyncClient) -> None:
    program = await Program.register(who)
    async with place.browser("198.51.100.7") as stranger:
        page = await stranger.get(program.url())
        data = {**hidden(page), "password": "a wrong password"}
        tried = [(await stranger.post(program.url(), data=data)).status_code for _ in range(11)]
        assert tried == [401] * 10 + [429]
        right = await stranger.post(program.url(), data={**data, "password": PASSWORD})
        assert (right.status_code, bool(right.headers["retry-after"])) == (429, True)
    assert "Test agent" in (await sign_in(who, program.url())).text


async def test_a_document_is_not_fetched_from_this_network_nor_for_strangers(who: httpx.AsyncClient) -> None:
    for address in (
        "https://127.0.0.1/a.json",
        "https://localhost/a.json",
        "https://[::1]/a.json",
        "https://a@b.example/c",
    ):
        program = Program(who, address)
        if not who.cookies:
            assert "Sign in as the owner" in (await who.get(program.url())).text
            page = await sign_in(who, program.url())
        else:
            page = await who.get(program.url())
        assert page.status_code == 400
        assert "location" not in page.headers


class _Shelf:
    tokens: Any = None
    client: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        self.client = client_info


@pytest.mark.parametrize("document", [None, "https://agent.example/client.json"])
async def test_the_sdks_own_client_gets_in(place: Place, who: httpx.AsyncClient, document: str | None) -> None:
    if document:
        # As it is kept after it was fetched.
        await place.deps.control.execute(
            "insert into brolly.oauth_clients (client_id, name, redirect_uris, used, expires_at) "
            "values ($1, 'Agent', $2, true, now() + interval '1 hour')",
            document,
            [RETURN],
        )
    came: list[str] = []

    async def opened(url: str) -> None:
        page = await sign_in(who, url.removeprefix(HERE))
        came.append((await decide(who, page)).headers["location"])

    async def returned() -> AuthorizationCodeResult:
        said = dict(parse_qsl(urlsplit(came[-1]).query))
        return AuthorizationCodeResult(code=said["code"], state=said["state"], iss=said["iss"])

    shelf = _Shelf()
    metadata = OAuthClientMetadata.model_validate({"client_name": "SDK", "redirect_uris": [RETURN]})
    auth = OAuthClientProvider(f"{HERE}/mcp", metadata, shelf, opened, returned, client_metadata_url=document)
    transport = httpx2.ASGITransport(place.web)
    async with httpx2.AsyncClient(transport=transport, base_url=HERE, auth=auth) as client:
        done = await client.post(
            "/mcp",
            headers={"Accept": "application/json, text/event-stream"},
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        )
    assert done.status_code == 200
    assert any(tool["name"] == "manage_app" for tool in done.json()["result"]["tools"])
    assert shelf.client.client_id == (document or shelf.client.client_id)
    assert shelf.tokens.refresh_token.startswith("bb_rt_")
