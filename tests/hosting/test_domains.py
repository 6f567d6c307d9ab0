"""Custom domains: named by anybody, given to who proves to hold them, and to one app alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from brolly.apps import provision
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.hosting.domains import RESOLVERS, recheck
from brolly.hosting.resolver import NetworkResolver
from brolly.registry import App
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session
from tests.hosting.zips import PAGE, deploy, site


class NameServer(asyncio.DatagramProtocol):
    """A name server with the records of this test."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        asked = query.question[0]
        kind = dns.rdatatype.to_text(asked.rdtype)
        if value := self.records.get((asked.name.to_text().rstrip("."), kind)):
            answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", kind, value))
        self.transport.sendto(answer.to_wire(), addr)


@pytest.fixture
async def names(deps: Deps) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    settings = load_settings({"BROLLY_DNS_SERVER": f"127.0.0.1:{port}"}, home=deps.settings.home)
    RESOLVERS[deps.registry] = NetworkResolver(settings)
    yield server
    RESOLVERS.pop(deps.registry)
    transport.close()


async def domain(mcp: Any, app: App, action: str, **more: Any) -> dict[str, Any]:
    return await mcp("manage_frontend", action="configure_custom_domain", app_id=app.id, domain_action=action, **more)


async def test_a_domain_is_proven_by_a_txt_record_and_then_leads_to_the_site(
    deps: Deps, mcp: Any, app: App, names: NameServer
) -> None:
    await deploy(deps, mcp, app, {"index.html": PAGE.format("Shop")})
    made = await domain(mcp, app, "add", hostname="WWW.Shop.example.")
    assert made["domain"]["hostname"] == "www.shop.example"
    assert made["cname_target"] == f"{app.subdomain}.brolly.test"
    waiting = await domain(mcp, app, "verify", domain_id=made["domain_id"])
    assert (waiting["domain"]["status"], "has no TXT record" in waiting["domain"]["error"]) == ("pending", True)
    async with site(deps, "www.shop.example") as visitor, http_client(deps) as front:
        assert "Shop" not in (await visitor.get("/")).text
        assert (await front.get("/domains/ask?domain=www.shop.example")).status_code == 404

        record = made["verification_records"][0]
        names.records[record["name"], "TXT"] = f'"{record["value"]}"'
        proven = await domain(mcp, app, "verify", domain_id=made["domain_id"])
        assert (proven["domain"]["status"], proven["domain"]["error"]) == ("active", None)
        assert "Shop" in (await visitor.get("/")).text
        assert (await front.get("/domains/ask?domain=www.shop.example")).status_code == 200
        assert (await front.get(f"/domains/ask?domain={app.subdomain}.brolly.test")).status_code == 200
        # The domain is the site's, not the platform's.
        assert (await visitor.get("/apps")).status_code == 404

        # Somebody else cannot have it, and is not told who does.
        other, _ = await make_owner(deps)
        assert other.account_id
        other_id, _ = await provision.create(deps, other.account_id, "theirs", "self-hosted")
        theirs = await deps.registry.get(other, other_id)
        async with mcp_session(deps, other) as call:
            with pytest.raises(ToolFailed) as failed:
                await domain(call, theirs, "add", hostname="www.shop.example")
            assert failed.value.code == "RESOURCE_ALREADY_EXISTS"
            assert app.id not in str(failed.value.error)
            assert app.name not in str(failed.value.error)
            # Nor see or end the owner's.
            for action in ("status", "verify", "remove"):
                with pytest.raises(ToolFailed) as failed:
                    await domain(call, theirs, action, domain_id=made["domain_id"])
                assert failed.value.code == "RESOURCE_NOT_FOUND"

        assert (await domain(mcp, app, "list"))["domains"][0]["status"] == "active"
        assert (await domain(mcp, app, "status", domain_id=made["domain_id"]))["domain"]["status"] == "active"
        await domain(mcp, app, "remove", domain_id=made["domain_id"])
        assert "Shop" not in (await visitor.get("/")).text
        assert (await domain(mcp, app, "list"))["domains"] == []


async def test_a_proof_is_found_without_asking_until_a_week_has_passed(
    deps: Deps, mcp: Any, app: App, names: NameServer
) -> None:
    await deploy(deps, mcp, app, {"index.html": PAGE.format("Later")})
    made = await domain(mcp, app, "add", hostname="late.example.org")
    assert made["domain"]["next_check_at"] > made["domain"]["created_at"]

    async def age(created: str, checked: str | None) -> None:
        await deps.control.execute(
            "update brolly.custom_domains set created_at = now() - $2::text::interval, "
            "checked_at = now() - $3::text::interval where id = $1::text::uuid", made["domain_id"], created, checked
        )  # fmt: skip

    async def now() -> dict[str, Any]:
        return (await domain(mcp, app, "status", domain_id=made["domain_id"]))["domain"]

    assert await recheck(deps) == 0, "its minute is not over"
    await age("2 minutes", None)
    assert (await recheck(deps), await recheck(deps)) == (1, 0)
    assert "has no TXT record" in (await now())["error"]
    # The longer it waits, the longer the pause.
    await age("32 hours", "90 minutes")
    assert await recheck(deps) == 0
    await age("8 days", "1 day")
    assert ((await now())["status"], (await now())["next_check_at"], await recheck(deps)) == ("expired", None, 0)
    again = await domain(mcp, app, "add", hostname="late.example.org")
    assert (again["domain"]["status"], again["domain_id"]) == ("pending", made["domain_id"])

    record = made["verification_records"][0]
    names.records[record["name"], "TXT"] = f'"{record["value"]}"'
    await age("2 minutes", None)
    assert await recheck(deps) == 1
    assert ((await now())["status"], (await now())["expires_at"]) == ("active", None)
    async with site(deps, "late.example.org") as visitor:
        assert "Later" in (await visitor.get("/")).text


async def test_of_two_that_prove_the_same_name_one_gets_it(
    deps: Deps, mcp: Any, app: App, names: NameServer, owner: Any
) -> None:
    second_id, _ = await provision.create(deps, owner.account_id, "second", "self-hosted")
    second = await deps.registry.get(owner, second_id)
    both = [(each, await domain(mcp, each, "add", hostname="one.example.org")) for each in (app, second)]
    values = " ".join(f'"{made["verification_records"][0]["value"]}"' for _, made in both[:1])
    names.records["_brolly-challenge.one.example.org", "TXT"] = values
    await domain(mcp, app, "verify", domain_id=both[0][1]["domain_id"])
    names.records["_brolly-challenge.one.example.org", "TXT"] = f'"{both[1][1]["verification_records"][0]["value"]}"'
    with pytest.raises(ToolFailed) as failed:
        await domain(mcp, second, "verify", domain_id=both[1][1]["domain_id"])
    assert failed.value.code == "RESOURCE_ALREADY_EXISTS"


async def test_http_proof_is_answered_by_us_and_never_fetched_from_private_networks(
    deps: Deps, mcp: Any, app: App, names: NameServer
) -> None:
    made = await domain(mcp, app, "add", hostname="shop.example.net", validation_method="http")
    path = made["verification_records"][0]["name"].partition("shop.example.net")[2]
    async with site(deps, "shop.example.net") as visitor:
        assert (await visitor.get(path)).text == made["verification_records"][0]["value"]
    checked = await domain(mcp, app, "verify", domain_id=made["domain_id"])
    assert "no address yet" in checked["domain"]["error"]
    names.records["shop.example.net", "A"] = "127.0.0.1"
    checked = await domain(mcp, app, "verify", domain_id=made["domain_id"])
    assert "not public" in checked["domain"]["error"]


@pytest.mark.parametrize(
    "name", ["localhost", "10.0.0.1", "brolly.test", "x.brolly.test", "a..b", "-a.example", "a b.de"]
)
async def test_names_that_cannot_be_anybodys_are_refused(mcp: Any, app: App, name: str) -> None:
    with pytest.raises(ToolFailed) as failed:
        await domain(mcp, app, "add", hostname=name)
    assert failed.value.code == "VALIDATION_INVALID_INPUT"
    assert (await domain(mcp, app, "list"))["domains"] == []


async def test_what_an_action_needs_is_named(mcp: Any, app: App) -> None:
    with pytest.raises(ToolFailed) as failed:
        await domain(mcp, app, "verify")
    assert failed.value.code == "VALIDATION_MISSING_FIELD"
