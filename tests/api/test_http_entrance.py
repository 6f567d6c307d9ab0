"""What the HTTP entrance answers before any feature is reached."""

from __future__ import annotations

from pathlib import Path

import httpx

from brolly.blob.folder import FolderStore
from brolly.blob.health import StoreHealth
from brolly.blob.signing import UrlSigner
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client, make_owner


def code_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert set(error) >= {"code", "message", "remediation", "documentation_url"}
    return error["code"]


async def test_health_needs_no_key(anon_http: httpx.AsyncClient) -> None:
    assert (await anon_http.get("/health")).json()["status"] == "ok"
    ready = await anon_http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"database": "ok", "files": "ok"}


async def test_a_store_that_is_down_is_told(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects", UrlSigner("x" * 32, "http://brolly.test"))
    await store.open()
    health = StoreHealth(store)
    assert await health.ask() == "ok"
    (tmp_path / "objects").rename(tmp_path / "away")
    assert await health.ask() == "ok"
    assert "cannot be used" in await StoreHealth(store).ask()


async def test_an_unknown_route_is_named(anon_http: httpx.AsyncClient) -> None:
    response = await anon_http.get("/nothing/here")
    assert response.status_code == 404
    assert response.json() == {"message": "Route GET:/nothing/here not found", "error": "Not Found", "statusCode": 404}


async def test_the_root_leads_to_the_documentation(anon_http: httpx.AsyncClient) -> None:
    response = await anon_http.get("/")
    assert (response.status_code, response.headers["location"]) == (302, "/docs")
    assert (await anon_http.get("/docs")).status_code == 200


async def test_an_apps_address_says_what_is_there(
    deps: Deps, http: httpx.AsyncClient, anon_http: httpx.AsyncClient, app: App
) -> None:
    open_to_all = (await anon_http.get(f"/v1/{app.id}")).json()
    assert open_to_all == {
        "app_id": app.id,
        "provisioning_status": "ready",
        "paused": False,
        "rows": f"http://brolly.test/v1/{app.id}/{{table}}",
        "auth": f"http://brolly.test/auth/{app.id}",
        "documentation": ["http://brolly.test/docs/rest", "http://brolly.test/docs/auth"],
    }
    for page in open_to_all["documentation"]:
        assert (await anon_http.get(page.removeprefix("http://brolly.test"))).status_code == 200
    managed = (await http.get(f"/v1/{app.id}")).json()
    assert managed["name"] == app.name
    assert managed["access_mode"] == "public"
    _, other_key = await make_owner(deps)
    async with http_client(deps, other_key) as stranger:
        foreign = await stranger.get(f"/v1/{app.id}")
    assert (foreign.status_code, code_of(foreign)) == (404, "RESOURCE_NOT_FOUND")
    assert (await anon_http.get("/v1/regions")).status_code == 200
    unknown = await anon_http.get("/v1/app_000000000000")
    assert (unknown.status_code, code_of(unknown)) == (404, "RESOURCE_NOT_FOUND")


async def test_every_answer_carries_a_request_id(http: httpx.AsyncClient) -> None:
    assert len((await http.get("/apps")).headers["x-request-id"]) == 16


async def test_management_needs_a_key(anon_http: httpx.AsyncClient, app: App) -> None:
    for method, path in (
        ("GET", "/apps"),
        ("POST", "/init"),
        ("GET", "/api-keys"),
        ("GET", f"/v1/{app.id}/config"),
        ("PATCH", f"/v1/{app.id}/config/cors"),
        ("POST", f"/v1/{app.id}/secure"),
        ("GET", f"/v1/{app.id}/audit-logs"),
        ("DELETE", f"/apps/{app.id}"),
    ):
        response = await anon_http.request(method, path)
        assert (response.status_code, code_of(response)) == (401, "AUTH_REQUIRED"), path
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_bad_credential_is_never_taken_for_none(deps: Deps, anon_http: httpx.AsyncClient) -> None:
    for header, code in (
        ("Bearer bb_sk_" + "0" * 40, "AUTH_INVALID_API_KEY"),
        ("Bearer bb_sk_short", "AUTH_INVALID_TOKEN"),
        ("Bearer", "AUTH_INVALID_TOKEN"),
        ("Basic YTpi", "AUTH_INVALID_TOKEN"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", "AUTH_INVALID_TOKEN"),
    ):
        response = await anon_http.get("/apps", headers={"Authorization": header})
        assert (response.status_code, code_of(response)) == (401, code), header


async def test_somebody_elses_app_is_not_there(deps: Deps, app: App) -> None:
    _, key = await make_owner(deps)
    async with http_client(deps, key) as stranger:
        for method, path, body in (
            ("GET", f"/v1/{app.id}/config", None),
            ("GET", f"/apps/{app.id}/status", None),
            ("PATCH", f"/v1/{app.id}/config/pause", {"paused": True}),
            ("PATCH", f"/v1/{app.id}/config/access-mode", {"access_mode": "public"}),
            ("PATCH", f"/v1/{app.id}/config/cors", {"allowed_origins": ["https://evil.example"]}),
            ("GET", f"/v1/{app.id}/audit-logs", None),
            ("POST", f"/v1/{app.id}/secure", {}),
            ("DELETE", f"/apps/{app.id}", None),
        ):
            response = await stranger.request(method, path, json=body)
            assert (response.status_code, code_of(response)) == (404, "RESOURCE_NOT_FOUND"), path
    unchanged = await deps.registry.find(app.id)
    assert unchanged is not None
    assert unchanged.paused_at is None
    assert unchanged.access_mode == "public"


async def test_bodies_are_checked(deps: Deps, http: httpx.AsyncClient, app: App) -> None:
    url = f"/v1/{app.id}/config/pause"
    broken = await http.patch(url, content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, code_of(broken)) == (400, "VALIDATION_INVALID_SCHEMA")
    array = await http.patch(url, json=[1])
    assert code_of(array) == "VALIDATION_INVALID_SCHEMA"
    unknown = await http.patch(url, json={"paused": True, "pausd": 1})
    assert "Did you mean paused?" in unknown.json()["error"]["message"]
    elsewhere = await http.patch(url, json={"paused": True, "app_id": "app_other"})
    assert code_of(elsewhere) == "VALIDATION_INVALID_SCHEMA"
    twice = await http.get(f"/v1/{app.id}/audit-logs?limit=1&limit=2")
    assert "limit" in twice.json()["error"]["message"]
    large = await http.patch(url, content=b" " * (deps.settings.body_limit + 1))
    assert (large.status_code, code_of(large)) == (413, "REQUEST_TOO_LARGE")

    async def chunks():
        for _ in range(deps.settings.body_limit // 65536 + 2):
            yield b" " * 65536

    streamed = await http.patch(url, content=chunks())
    assert (streamed.status_code, code_of(streamed)) == (413, "REQUEST_TOO_LARGE")


async def test_an_empty_body_counts_as_absent(http: httpx.AsyncClient, app: App) -> None:
    response = await http.post(f"/v1/{app.id}/secure", content=b"", headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert response.json()["access_mode"] == "authenticated"


async def test_cors_follows_each_app_alone(http: httpx.AsyncClient, app: App, mcp) -> None:
    other = (await mcp("init_app", name="other"))["app_id"]
    origin = "https://shop.example"
    await mcp("manage_app", action="update_cors", app_id=app.id, allowed_origins=[origin + "/"])

    async def allowed(path: str, origin: str) -> str | None:
        answer = await http.options(path, headers={"origin": origin, "access-control-request-method": "GET"})
        assert answer.status_code == 204
        return answer.headers.get("access-control-allow-origin")

    assert await allowed(f"/v1/{app.id}/config", origin) == origin
    assert await allowed(f"/v1/{app.id}/config", "http://localhost:3000") is None
    assert await allowed(f"/v1/{other}/config", origin) is None
    assert await allowed("/apps", origin) is None
    plain = await http.get(f"/v1/{app.id}/config", headers={"origin": origin})
    assert plain.headers["access-control-allow-origin"] == origin
    assert "origin" in plain.headers["vary"].lower()


async def test_init_answers_201_then_200(http: httpx.AsyncClient) -> None:
    first = await http.post("/init", json={"name": "over-http"})
    again = await http.post("/init", json={"name": "over-http"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["app_id"] == again.json()["app_id"]
    assert (await http.get(f"/apps/{first.json()['app_id']}/status")).json()["provisioning_status"] == "ready"
    deleted = await http.delete(f"/apps/{first.json()['app_id']}")
    assert deleted.status_code == 200
    assert (await http.delete(f"/apps/{first.json()['app_id']}")).status_code == 404


async def test_the_published_clients_spellings_are_taken(http: httpx.AsyncClient, app: App) -> None:
    body = {
        "allowedOrigins": ["https://a.example"],
        "allowedMethods": ["GET"],
        "allowedHeaders": ["*"],
        "allowCredentials": True,
    }
    assert (await http.patch(f"/v1/{app.id}/config/cors", json=body)).json()["allowed_origins"] == ["https://a.example"]
    key = (await http.post("/api-keys", json={"name": "k", "key_scope": "app", "target_app_id": app.id})).json()
    assert key["keyId"] == key["key_id"]
    assert key["scopes"][0] == f"app:{app.id}"
    assert any(k["id"] == key["keyId"] for k in (await http.get("/api-keys?scope=app")).json()["keys"])
    assert (await http.delete(f"/api-keys/{key['keyId']}")).json()["revoked"] is True


async def test_a_program_may_choose_a_free_subdomain(http: httpx.AsyncClient) -> None:
    first = await http.post("/init", json={"name": "chosen", "subdomain": "my-own-place"})
    assert (first.status_code, first.json()["subdomain"]) == (201, "my-own-place")
    taken = await http.post("/init", json={"name": "another", "subdomain": "my-own-place"})
    assert (taken.status_code, code_of(taken)) == (409, "RESOURCE_CONFLICT")
    assert [a["name"] for a in (await http.get("/apps")).json()["apps"]] == ["chosen"]
    wrong = await http.post("/init", json={"name": "another", "subdomain": "-no.way"})
    assert code_of(wrong) == "VALIDATION_INVALID_SCHEMA"


async def test_no_parameter_of_the_server_is_passed_over(http: httpx.AsyncClient, anon_http: httpx.AsyncClient) -> None:
    for path in ("/health", "/health/ready", "/docs", "/docs/errors", "/docs/rest", "/v1/regions"):
        assert (await anon_http.get(path)).status_code == 200, path
        refused = await anon_http.get(f"{path}?verbse=1")
        assert (refused.status_code, code_of(refused)) == (400, "VALIDATION_INVALID_SCHEMA"), path
    mistyped = await http.post("/mcp?read_onyl=true", json={})
    assert (mistyped.status_code, code_of(mistyped)) == (400, "VALIDATION_INVALID_SCHEMA")
    assert "Did you mean read_only?" in mistyped.json()["error"]["message"]
    assert (await http.post("/mcp?read_only=maybe", json={})).status_code == 400


def test_the_url_narrows_and_never_widens() -> None:
    from brolly.mcp_http import with_parameters

    held = {"x-brolly-read-only": "1", "x-brolly-tools": "manage_app"}
    assert with_parameters({}, "read_only=true&tools=manage_schema") == {
        "x-brolly-read-only": "true",
        "x-brolly-tools": "manage_schema",
    }
    assert with_parameters(held, "read_only=false&tools=manage_schema") == held
