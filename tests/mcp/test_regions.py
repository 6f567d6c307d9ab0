"""list_regions, and its public route."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from tests.conftest import ToolFailed, http_client, mcp_session


async def test_it_lists_what_the_settings_offer(deps: Deps, owner: Caller, mcp: Any) -> None:
    assert await mcp("list_regions") == {"regions": ["self-hosted"]}
    two = replace(deps, settings=replace(deps.settings, regions=("eu-central-1", "us-east-1")))
    async with mcp_session(two, owner) as call:
        assert await call("list_regions") == {"regions": ["eu-central-1", "us-east-1"]}
        made = await call("init_app", name="abroad", region="us-east-1")
        assert made["region"] == "us-east-1"
        assert (await call("init_app", name="at home"))["region"] == "eu-central-1"


@pytest.mark.parametrize("unknown", [{"country": "de"}, {"confirm": True}, {"action": "list"}])
async def test_it_takes_no_parameters(mcp: Any, unknown: dict[str, Any]) -> None:
    with pytest.raises(ToolFailed) as failed:
        await mcp("list_regions", **unknown)
    assert failed.value.code == "VALIDATION_INVALID_SCHEMA"
    assert failed.value.error["remediation"] == "Call list_regions with no parameters."


async def test_the_route_needs_no_key(deps: Deps, anon_http: httpx.AsyncClient) -> None:
    answer = await anon_http.get("/v1/regions")
    assert (answer.status_code, answer.json()) == (200, {"regions": ["self-hosted"]})
    wrong = await anon_http.get("/v1/regions?country=de")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    async with http_client(deps, "bb_sk_" + "0" * 40) as client:
        assert (await client.get("/v1/regions")).status_code == 401
