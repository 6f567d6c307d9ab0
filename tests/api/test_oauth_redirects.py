"""Where a browser may be sent with tokens: addresses that only look allowed are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from brolly.auth.oauth_redirects import check_redirect_to, check_redirect_uri, with_query
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.registry import App
from tests.api.oauth_browser import Browser, code_of, open_to_loopback
from tests.conftest import http_client

ALLOWED = ("https://shop.example", "http://localhost:3000", "https://xn--bcher-kva.example", "http://[::1]:3000")


NOW = datetime.now(UTC)
SHOP = App(
    id="app_shop",
    account_id="a",
    name="shop",
    subdomain="shop",
    db_name="d",
    region="r",
    status="ready",
    access_mode="public",
    allowed_origins=ALLOWED,
    storage_config={},
    jwt_config={},
    auth_hook_function=None,
    visibility="private",
    listed=False,
    paused_at=None,
    paused_reason=None,
    created_at=NOW,
    updated_at=NOW,
)


@pytest.mark.parametrize(
    "address",
    [
        "https://shop.example", "https://shop.example/", "https://shop.example/a/b?c=d&e=%20", "HTTPS://SHOP.example/x",
        "https://shop.example:443/x", "http://localhost:3000/cb", "https://xn--bcher-kva.example/", "http://[::1]:3000/x",
        "https://shop.example?x=1", "https://shop.example/..//x", "https://shop.example/@evil.example",
    ],
)  # fmt: skip
def test_pages_of_the_app(address: str) -> None:
    assert check_redirect_to(SHOP, address) == address


@pytest.mark.parametrize(
    "address",
    [
        "", "/", "//shop.example", "shop.example", "https:", "https://", "https:///shop.example", "https:shop.example",
        "https:/shop.example", "https:\\\\shop.example", "https://shop.example\\@evil.example",
        "https://evil.example\\.shop.example", "https://evil.example\\@shop.example", "https://shop.example@evil.example",
        "https://user:pw@shop.example", "https://shop.example:443@evil.example", "https://@shop.example",
        "https://shop.example.evil.example", "https://evilshop.example", "https://shop.example.", "https://.shop.example",
        "https://shop.exampl", "https://sub.shop.example", "https://shop.example%2eevil.example",
        "https://shop.example%00.evil.example", "https://shop.example%5c@evil.example", "https://shop%2eexample",
        "http://shop.example", "ftp://shop.example", "javascript://shop.example/%0aalert(1)", "javascript:alert(1)",
        "data:text/html,x", "shop.example://x", "https+x://shop.example", "https://shop.example:8443",
        "https://shop.example:80", "https://shop.example:", "https://shop.example:0443x", "https://shop.example:99999",
        "https://shop.example:-1", "https://shop.example/#x", "https://shop.example#@evil.example",
        "https://evil.example#shop.example", "https://evil.example?https://shop.example", "https://evil.example/https://shop.example",
        " https://shop.example", "https://shop.example ", "https://shop.example\n", "https://shop.example\t.evil.example",
        "https://shop.example\r\nSet-Cookie: a=b", "https://shop.example/\0", "https://sh\u00f6p.example",
        "https://b\u00fccher.example", "https://shop\u3002example", "https://shop.example\u2044evil.example",
        "https://shop.ex\u0430mple", "https://\uff53hop.example", "https://shop.example/\u00e9", "http://localhost:3001",
        "http://localhost", "https://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3001", "http://[::1",
        "http://[::ffff:127.0.0.1]:3000", "https://[shop.example]", "https://shop.example/?access_token=evil",
        "https://shop.example/?a=1&refresh_token=", "https://shop.example/?error=x",
        "https://shop.example/" + "x" * 2000,
        "null", "*", "https://*", "https://shop..example", "https://-shop.example",
    ],
)  # fmt: skip
def test_addresses_that_only_look_allowed(address: str) -> None:
    with pytest.raises(AppError) as refused:
        check_redirect_to(SHOP, address)
    assert refused.value.code == "VALIDATION_INVALID_SCHEMA"


def test_an_app_without_origins_has_no_pages() -> None:
    with pytest.raises(AppError) as refused:
        check_redirect_to(replace(SHOP, allowed_origins=()), "https://shop.example/")
    assert "update_cors" in refused.value.remediation


def test_the_callback_is_one_of_the_list_letter_by_letter() -> None:
    own, theirs = "https://api.example/cb", "https://shop.example/cb"
    assert check_redirect_uri([theirs, own], None, own) == own
    assert check_redirect_uri([theirs], None, own) == theirs
    assert check_redirect_uri([theirs, own], theirs, own) == theirs
    for other in ("", theirs + "/", theirs.upper(), theirs + "?a=1", "https://shop.example/cb/../x", own + "#"):
        with pytest.raises(AppError) as refused:
            check_redirect_uri([theirs, own], other, own)
        assert refused.value.code == "VALIDATION_INVALID_SCHEMA"


def test_parameters_come_after_the_pages_own() -> None:
    assert with_query("https://a.example/x", {"b": "c d&"}) == "https://a.example/x?b=c+d%26"
    assert with_query("https://a.example/x?y=1", {"b": "c"}) == "https://a.example/x?y=1&b=c"


async def test_a_refused_page_is_told_as_json_and_nothing_begins(deps: Deps, owner_key: str, app: App) -> None:
    own = open_to_loopback(deps)
    async with http_client(own, owner_key) as owner:
        body = {"provider": "google", "client_id": "x", "client_secret": "y"}
        assert (await owner.post(f"/v1/{app.id}/auth/oauth-config", json=body)).status_code == 200
    async with Browser(own) as browser:
        for query in (
            {"redirect_to": "https://evil.example/"},
            {"redirect_uri": "https://evil.example/"},
            {"redirectto": "x"},
        ):
            answer = await browser.start(app, "google", **query)
            assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_INVALID_SCHEMA")
            assert "set-cookie" not in answer.headers
        twice = await browser.http.get(f"/auth/{app.id}/oauth/google?redirect_to=a&redirect_to=b")
        assert code_of(twice) == "VALIDATION_INVALID_SCHEMA"
