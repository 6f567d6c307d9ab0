"""What visitors get: which file, in which encoding, for how long, and what of the app lies below the same host."""

from __future__ import annotations

import gzip
from typing import Any
from uuid import uuid4

import brotli
import pytest
from backports import zstd

from brolly.apps import provision
from brolly.deps import Deps
from brolly.hosting.quick import answers_of
from brolly.registry import App
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session
from tests.hosting.zips import PAGE, deploy, site

SCRIPT = "export const shop = 'open';\n" * 200
FILES: dict[str, str | bytes] = {
    "index.html": PAGE.format("Home"),
    "about.html": PAGE.format("About"),
    "docs/index.html": PAGE.format("Docs"),
    "docs/404.html": PAGE.format("No such document"),
    "404.html": PAGE.format("Lost"),
    "new.html": PAGE.format("New"),
    "auth/callback.html": PAGE.format("Signed in"),
    "assets/app-Bx12cdE9.js": SCRIPT,
    "assets/my-painting.js": SCRIPT,
    "big.bin": bytes(range(256)) * 20_000,
    "_headers": "/*\n  X-Frame-Options: DENY\n  X-All: one\n/assets/*\n  X-All: two\n  ! Referrer-Policy\n"
    "  Content-Length: 5\n",
    "_redirects": "/old /new.html 301\n/news/:year/* /archive/:splat?y=:year 302\n/about /new.html 200!\n"
    "/about2 /about 200\n/find q=:q /results/:q 302\n/api/* /data/:splat 200\n/gone /404.html 404\n"
    "/far https://example.com/:splat 307\n/steal/* https://evil.example/:splat 200\n/to/* /:splat 302\n",
}


@pytest.fixture
async def home(deps: Deps, mcp: Any, app: App) -> str:
    done = await deploy(deps, mcp, app, FILES)
    assert done["status"] == "READY"
    assert any("Content-Length" in each for each in done["warnings"])
    assert any("evil.example" in each for each in done["warnings"])
    return f"{app.subdomain}.brolly.test"


async def test_files_addresses_rules_and_conditions(deps: Deps, home: str) -> None:
    async with site(deps, home) as client:
        # Clean addresses, folders, pages of what is not there.
        for path, text in (("/", "Home"), ("/about.html", "About"), ("/docs/", "Docs"), ("/about", "New")):
            assert text in (await client.get(path)).text, path
        moved = await client.get("/docs?x=1")
        assert (moved.status_code, moved.headers["location"]) == (301, "/docs/?x=1")
        for path, text in (("/nothing", "Lost"), ("/docs/nothing/deep", "No such document"), ("/a.js", "Lost")):
            answer = await client.get(path)
            assert (answer.status_code, text in answer.text, answer.headers["cache-control"]) == (404, True, "no-cache")

        # Rules.
        for path, status, location in (
            ("/old", 301, "/new.html"),
            ("/news/2026/a/b", 302, "/archive/a/b?y=2026"),
            ("/find?q=red%20hat", 302, "/results/red%20hat"),
            ("/to//evil.example", 302, "/evil.example"),
        ):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers.get("location")) == (status, location), path
        assert (await client.get("/gone")).status_code == 404
        assert "New" in (await client.get("/about2")).text or "About" in (await client.get("/about2")).text
        assert "evil" not in (await client.get("/steal/x")).text
        script = await client.get("/assets/app-Bx12cdE9.js")
        assert (script.headers["x-frame-options"], script.headers["x-all"]) == ("DENY", "one, two")
        assert "referrer-policy" not in script.headers
        assert script.headers["content-length"] == str(len(SCRIPT))
        for hidden in ("/_headers", "/_redirects"):
            assert (await client.get(hidden)).status_code == 404

        # Caching.
        assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "max-age=0" in (await client.get("/assets/my-painting.js")).headers["cache-control"]
        assert (await client.get("/")).headers["cache-control"] == "no-cache"

        # HEAD, methods.
        head = await client.head("/assets/app-Bx12cdE9.js")
        assert (head.content, head.headers["content-length"]) == (b"", str(len(SCRIPT)))
        refused = await client.post("/about.html")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_encodings_tags_conditions_and_ranges(deps: Deps, home: str) -> None:
    path, unpacked = (
        "/assets/app-Bx12cdE9.js",
        {"br": brotli.decompress, "gzip": gzip.decompress, "zstd": zstd.decompress},
    )
    async with site(deps, home) as client:
        tags = {(await client.get(path)).headers["etag"]}
        for accept, chosen in (("gzip, br, zstd", "br"), ("gzip;q=1, br;q=0.1", "gzip"), ("zstd", "zstd"), ("*", "br")):
            async with client.stream("GET", path, headers={"accept-encoding": accept}) as answer:
                packed = b"".join([each async for each in answer.aiter_raw()])
            assert answer.headers["content-encoding"] == chosen
            assert answer.headers["vary"] == "Accept-Encoding"
            assert unpacked[chosen](packed) == SCRIPT.encode()
            tags.add(answer.headers["etag"])
            again = await client.get(
                path, headers={"accept-encoding": accept, "if-none-match": f'"x", {answer.headers["etag"]}'}
            )
            assert (again.status_code, again.content) == (304, b"")
        assert len(tags) == 4
        assert "content-encoding" not in (await client.get(path, headers={"accept-encoding": "br;q=0"})).headers
        since = (await client.get(path)).headers["last-modified"]
        assert (await client.get(path, headers={"if-modified-since": since})).status_code == 304

        data = FILES["big.bin"]
        part = await client.get("/big.bin", headers={"range": "bytes=100-299", "accept-encoding": "br"})
        assert (part.status_code, part.content) == (206, data[100:300])
        assert part.headers["content-range"] == f"bytes 100-299/{len(data)}"
        assert (await client.get("/big.bin", headers={"range": "bytes=-5"})).content == data[-5:]
        beyond = await client.get("/big.bin", headers={"range": "bytes=9999999-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
        stale = {"range": "bytes=0-1", "if-range": '"other"'}
        assert (await client.get("/big.bin", headers=stale)).status_code == 200
        assert (await client.get("/big.bin")).content == data


async def test_a_single_page_app_answers_for_its_routes_but_not_for_files(deps: Deps, mcp: Any, app: App) -> None:
    await deploy(deps, mcp, app, {"index.html": PAGE.format("App")}, framework="react-vite")
    async with site(deps, f"{app.subdomain}.localhost:4000") as client:
        answer = await client.get("/orders/7")
        assert (answer.status_code, "App" in answer.text) == (200, True)
        assert (await client.get("/assets/old-Bx12cdE9.js")).status_code == 404
        empty = await client.get("/", headers={"host": "nobody.localhost"})
        assert (empty.status_code, "no site" in empty.text) == (404, True)


async def test_below_a_sites_host_lies_its_app_and_nothing_else(
    deps: Deps, mcp: Any, app: App, owner_key: str, home: str
) -> None:
    await mcp(
        "manage_schema",
        action="apply",
        app_id=app.id,
        schema={
            "tables": {"posts": {"columns": {"id": {"type": "uuid", "primaryKey": True}, "title": {"type": "text"}}}}
        },
    )
    row = {"id": str(uuid4()), "title": "Hello"}
    key = {"Authorization": f"Bearer {owner_key}"}
    async with site(deps, home) as client:
        assert (await client.post("/data/posts", json=row, headers=key)).status_code == 201
        for path in ("/data/posts", f"/v1/{app.id}/posts", "/api/posts"):
            assert (await client.get(path, headers=key)).json()[0]["title"] == "Hello", path
        person = {"email": "ann@example.com", "password": "Passw0rd!x"}
        assert (await client.post("/auth/signup", json=person)).status_code in (200, 201)
        assert (await client.post(f"/auth/{app.id}/login", json=person)).status_code == 200
        assert (await client.get("/storage/objects", headers=key)).status_code == 200
        assert (await client.get("/fn/none", headers=key)).status_code == 404
        # A page of the site's own beside sign-in.
        assert "Signed in" in (await client.get("/auth/callback", headers={"accept": "text/html"})).text

        other, other_key = await make_owner(deps)
        assert other.account_id
        other_id, _ = await provision.create(deps, other.account_id, "theirs", "self-hosted")
        theirs = {"Authorization": f"Bearer {other_key}"}
        for path in (
            f"/v1/{other_id}/posts", f"/auth/{other_id}/me", f"/storage/{other_id}/objects", "/apps", "/mcp",
            f"/v1/{app.id}/schema", f"/v1/{app.id}/frontend/deployments", "/data/config/cors", f"/data/../{other_id}/x",
            "/health", f"/v1/{app.id}/admin/auth/users", "/api-keys", f"/sites/{other_id}/",
        ):  # fmt: skip
            answer = await client.get(path, headers=theirs if other_id in path else key)
            assert answer.status_code == 404, (path, answer.text[:200])

    # Another account's key sees nothing of these deployments.
    deployments = (await mcp("manage_frontend", action="list_deployments", app_id=app.id))["deployments"]
    async with mcp_session(deps, other) as call:
        for action, more in (
            ("list_deployments", {}), ("rollback", {}), ("set_env", {"vars": {"A": "b"}}),
            ("promote", {"deployment_id": deployments[0]["id"]}),
            ("start_deployment", {"deployment_id": deployments[0]["id"]}),
        ):  # fmt: skip
            for app_id in (app.id, other_id):
                if app_id == other_id and "deployment_id" not in more:
                    continue
                with pytest.raises(ToolFailed) as failed:
                    await call("manage_frontend", action=action, app_id=app_id, **more)
                assert failed.value.code == "RESOURCE_NOT_FOUND"


async def test_previews_paths_and_pauses(deps: Deps, mcp: Any, app: App, home: str) -> None:
    listed = await mcp("manage_frontend", action="list_deployments", app_id=app.id)
    first = listed["deployments"][0]
    await deploy(deps, mcp, app, {"index.html": PAGE.format("Later")})
    preview = first["preview_url"].removeprefix("http://")
    async with site(deps, preview) as client:
        answer = await client.get("/")
        assert ("Home" in answer.text, answer.headers["x-robots-tag"]) == (True, "noindex")
    wrong = preview.replace(preview[:12], "0" * 12)
    async with site(deps, wrong) as client:
        assert (await client.get("/")).status_code == 404

    # The form by path: in a sandbox, since all apps share that origin.
    async with http_client(deps) as client:
        assert (await client.get(f"/sites/{app.id}")).headers["location"] == f"/sites/{app.id}/"
        shown = await client.get(f"/sites/{app.id}/")
        assert "Later" in shown.text
        policy = shown.headers["content-security-policy"]
        assert policy.startswith("sandbox ")
        assert "allow-same-origin" not in policy
        assert (await client.get(f"/sites/{app.id}/data/posts")).status_code == 404
        assert (await client.get("/sites/app_000000000000/")).status_code == 404

    await mcp("manage_app", action="pause", app_id=app.id, paused=True)
    async with site(deps, home) as client:
        paused = await client.get("/")
        assert (paused.status_code, paused.headers["retry-after"]) == (503, "60")


async def test_variables_are_sealed_and_named_only(deps: Deps, mcp: Any, app: App, http: Any) -> None:
    from brolly.hosting.environment import read_env

    assert (await mcp("manage_frontend", action="set_env", app_id=app.id, vars={"VITE_A": "geheim"}))["keys"] == [
        "VITE_A"
    ]
    put = await http.put(f"/v1/{app.id}/frontend/env", json={"VITE_B": "zwei"})
    assert put.json()["keys"] == ["VITE_A", "VITE_B"]
    shown = await http.get(f"/v1/{app.id}/frontend/env")
    assert [each["key"] for each in shown.json()["envVars"]] == ["VITE_A", "VITE_B"]
    assert "geheim" not in shown.text
    kept = await deps.control.fetch("select value from brolly.site_env where app_id = $1", app.id)
    assert not any(b"geheim" in row["value"] for row in kept)
    assert await read_env(deps, app) == {"VITE_A": "geheim", "VITE_B": "zwei"}
    for bad in ({"1A": "x"}, {"BROLLY_X": "x"}, {"A": 5}):
        with pytest.raises(ToolFailed) as failed:
            await mcp("manage_frontend", action="set_env", app_id=app.id, vars=bad)
        assert failed.value.code == "VALIDATION_INVALID_SCHEMA"


async def test_what_was_just_answered_is_answered_so_again_until_something_changes(
    deps: Deps, mcp: Any, app: App
) -> None:
    files: dict[str, str | bytes] = {"index.html": PAGE.format("One"), "a.js": "x" * 900, "auth/in.html": "Page"}
    await deploy(deps, mcp, app, files)
    kept = answers_of(deps).kept

    def own() -> int:
        return sum(name[0] == f"{app.subdomain}.brolly.test".encode() for name in kept)

    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        for headers in ({}, {"accept-encoding": "gzip"}):
            first, again = [await client.get("/a.js", headers=headers) for _ in range(2)]
            assert (first.text, again.status_code, again.text) == ("x" * 900, 200, "x" * 900)
            ids = [answer.headers.pop("x-request-id") for answer in (first, again)]
            assert ids[0] != ids[1]
            assert first.headers == again.headers
        assert own() == 2
        # What other headers or a query decide about goes the long way.
        known = {"accept-encoding": "gzip", "if-none-match": first.headers["etag"]}
        assert (await client.get("/a.js", headers=known)).status_code == 304
        assert (await client.get("/a.js", headers={"range": "bytes=0-3"})).text == "xxxx"
        assert (await client.get("/a.js?v=1")).text == "x" * 900
        assert (await client.head("/a.js")).content == b""
        assert (await client.get("/auth/in", headers={"accept": "text/html"})).text == "Page"
        assert (await client.get("/auth/in", headers={"accept": "application/json"})).status_code == 404
        assert (await client.get("/a.js", headers={"host": "nobody.brolly.test"})).status_code == 404
        assert own() == 2
        assert "One" in (await client.get("/")).text
        await deploy(deps, mcp, app, {"index.html": PAGE.format("Two")})
        assert "Two" in (await client.get("/")).text
        assert (await client.get("/a.js")).status_code == 404
        assert "Two" in (await client.get("/")).text
        await mcp("manage_app", action="pause", app_id=app.id, paused=True)
        assert (await client.get("/")).status_code == 503
