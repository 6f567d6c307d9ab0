"""A site's own host leads to its own app: nobody's credentials of another app, or of another account, open anything."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from brolly.apps import provision
from brolly.auth.signing import sign
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import make_owner, mcp_session
from tests.hosting.zips import PAGE, deploy, site
from tests.realtime.sockets import Client, serving

NOTES = {
    "tables": {
        "notes": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True},
                "user_id": {"type": "uuid"},
                "body": {"type": "text"},
            }
        }
    }
}


async def with_notes(deps: Deps, caller: Caller, name: str) -> App:
    """An app with a site, and notes that everybody sees their own of."""
    assert caller.account_id is not None
    app_id, _ = await provision.create(deps, caller.account_id, name, "self-hosted")
    app = await deps.registry.get(caller, app_id)
    async with mcp_session(deps, caller) as mcp:
        await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
        await mcp(
            "manage_rls", action="create_user_isolation", app_id=app.id, table_name="notes", user_column="user_id"
        )
        await mcp("manage_realtime", action="configure", app_id=app.id, tables=["notes"])
        await deploy(deps, mcp, app, {"index.html": PAGE.format(name)})
    return await deps.registry.get(caller, app_id)


async def token_of(deps: Deps, app: App, user: str) -> str:
    return await sign(deps, app, {"sub": user, "role": "authenticated", "app_id": app.id}, 900)


def host_of(app: App) -> str:
    return f"{app.subdomain}.brolly.test"


async def test_a_sites_host_opens_its_own_app_alone(deps: Deps, owner: Caller) -> None:
    stranger, strange_key = await make_owner(deps)
    mine, theirs = await with_notes(deps, owner, "mine"), await with_notes(deps, stranger, "theirs")
    # The same person's id in both apps: only who signed the token tells them apart.
    ann, bob = str(uuid4()), str(uuid4())
    tokens = {who: {"Authorization": f"Bearer {await token_of(deps, mine, who)}"} for who in (ann, bob)}
    foreign = await token_of(deps, theirs, ann)
    async with site(deps, host_of(mine)) as client:
        for who, token in tokens.items():
            row = {"id": str(uuid4()), "user_id": who, "body": who}
            assert (await client.post("/data/notes", json=row, headers=token)).status_code == 201
        for path in ("/data/notes", f"/v1/{mine.id}/notes"):
            seen = {
                who: [row["body"] for row in (await client.get(path, headers=tokens[who])).json()] for who in tokens
            }
            assert seen == {ann: [ann], bob: [bob]}, path
        # Another app's token, in every place where one might be looked for, and another account's key.
        for given in (
            {"Authorization": f"Bearer {foreign}"},
            {"Authorization": f"Bearer {strange_key}"},
            {"Cookie": f"session={foreign}; access_token={foreign}; token={foreign}", "apikey": foreign},
        ):
            for method in ("GET", "DELETE"):
                answer = await client.request(method, "/data/notes?id=not.is.null", headers=given)
                nothing = ([], {"deleted": True, "count": 0})
                assert answer.status_code >= 400 or answer.json() in nothing, (given, answer.text[:200])
                assert ann not in answer.text
                assert bob not in answer.text
        # Names of the other app below this host, and what manages, with whatever credentials.
        for path in (
            f"/v1/{theirs.id}/notes", f"/auth/{theirs.id}/me", f"/storage/{theirs.id}/objects", "/mcp", "/apps",
            "/api-keys", f"/v1/{mine.id}/schema", f"/v1/{mine.id}/custom-domains", f"/v1/{mine.id}/frontend/env",
            f"/sites/{theirs.id}/", f"/data/..%2f{theirs.id}/notes", f"/v1/{mine.id}%2f..%2f{theirs.id}/notes",
        ):  # fmt: skip
            for key in (strange_key, foreign):
                answer = await client.get(path, headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code in (401, 403, 404), (path, answer.text[:200])
    async with site(deps, host_of(theirs)) as client:
        assert (await client.get("/data/notes", headers={"Authorization": f"Bearer {foreign}"})).json() == []
        assert (await client.get("/")).text == PAGE.format("theirs")
    for app, caller in ((mine, owner), (theirs, stranger)):
        await provision.delete(deps, await deps.registry.get(caller, app.id))


async def test_a_sites_host_has_its_apps_socket_and_no_other(deps: Deps, owner: Caller) -> None:
    stranger, _ = await make_owner(deps)
    mine, theirs = await with_notes(deps, owner, "heard"), await with_notes(deps, stranger, "unheard")
    ann, bob = str(uuid4()), str(uuid4())
    async with serving(deps) as url:

        def at(path: str, host: str) -> Any:
            # As a browser does from a page of the site: its own host, and the Origin that goes with it.
            _, _, port = url.rpartition(":")
            where = {"host": "127.0.0.1", "port": int(port), "origin": f"http://{host}:{port}"}
            return connect(f"ws://{host}:{port}{path}", proxy=None, compression=None, **where)

        token = await token_of(deps, mine, ann)
        for path in (f"/realtime?token={token}", f"/v1/{mine.id}/realtime?token={token}"):
            async with at(path, host_of(mine)) as connection:
                client = Client(connection)
                await client.ask("subscribe", "subscribed", table="notes")
                async with site(deps, host_of(mine)) as page:
                    for who in (bob, ann):
                        given = {"Authorization": f"Bearer {await token_of(deps, mine, who)}"}
                        row = {"id": str(uuid4()), "user_id": who, "body": who}
                        assert (await page.post("/data/notes", json=row, headers=given)).status_code == 201
                assert [change["record"]["body"] for change in await client.changes(1)] == [ann]
                await client.silent()

        # A token of the other app says nothing here, and the other app's socket is not below this host.
        async with at(f"/realtime?token={await token_of(deps, theirs, ann)}", host_of(mine)) as connection:
            client = Client(connection)
            assert (await client.closed())[0] == 1008
        for path, host in (
            (f"/v1/{theirs.id}/realtime", host_of(mine)),
            ("/realtime", "nobody.brolly.test"),
            ("/mcp", host_of(mine)),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with at(path, host):
                    pass
            assert refused.value.response.status_code in (403, 404), (path, host)
    for app, caller in ((mine, owner), (theirs, stranger)):
        await provision.delete(deps, await deps.registry.get(caller, app.id))
