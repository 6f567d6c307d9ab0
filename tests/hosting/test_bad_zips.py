"""Zips that are broken, hostile or not what was meant: refused with words that help, and nothing changes."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import Any

import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed
from tests.hosting.zips import PAGE, deploy, site, upload, zipped

HELLO = PAGE.format("Hello")


def raw(*entries: zipfile.ZipInfo | tuple[zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.html", HELLO)
        for entry in entries:
            info, data = entry if isinstance(entry, tuple) else (entry, b"x")
            archive.writestr(info, data)
    return out.getvalue()


def named(name: str) -> bytes:
    data = raw(zipfile.ZipInfo("N" * len(name)))
    # zipfile mends names while it writes.
    return data.replace(b"N" * len(name), name.encode())


def link() -> bytes:
    info = zipfile.ZipInfo("passwords")
    info.external_attr = 0o120777 << 16
    return raw((info, b"/etc/passwd"))


def encrypted() -> bytes:
    data = bytearray(raw())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, at + 8, struct.unpack_from("<H", data, at + 8)[0] | 1)
    return bytes(data)


def lying() -> bytes:
    """The directory says ten bytes; far more come out."""
    big = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = big.compress(bytes(5_000_000)) + big.flush()
    data = bytearray(raw((zipfile.ZipInfo("big.bin"), bytes(10))))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.html", HELLO)
        archive.writestr("big.bin", bytes(5_000_000))
    data = bytearray(out.getvalue())
    at = data.rindex(b"PK\x01\x02")
    assert struct.unpack_from("<L", data, at + 24)[0] == 5_000_000
    assert len(packed) < 10_000
    struct.pack_into("<L", data, at + 24, 10)
    return bytes(data)


def broken() -> bytes:
    data = bytearray(zipped({"index.html": HELLO * 50}))
    data[60] ^= 0xFF
    return bytes(data)


CASES: dict[str, tuple[bytes, str]] = {
    "slip": (named("../../evil.html"), "leads out"),
    "inner slip": (named("a/../../b.html"), "leads out"),
    "absolute": (named("/etc/evil.html"), "absolute"),
    "drive": (named("C:/evil.html"), "absolute"),
    "backslash": (named("assets\\app.js"), "backslash"),
    "control": (named("a\nb.html"), "control"),
    "link": (link(), "symbolic link"),
    "encrypted": (encrypted(), "encrypted"),
    "no zip": (b"<!doctype html>" * 10, "not a whole zip"),
    "empty": (zipped({}), "empty"),
    "cut": (zipped({"index.html": HELLO * 100})[:-40], "not a whole zip"),
    "damaged": (broken(), "not a whole zip"),
    "lying size": (lying(), "not a whole zip"),
    "ratio bomb": (zipped({"index.html": HELLO, "zero.bin": bytes(60_000_000)}), "bomb"),
    "nesting": (zipped({"index.html": HELLO, "a/" * 40 + "b.html": "x"}), "nested too deeply"),
    "file and folder": (zipped({"index.html": HELLO, "a": "x", "a/b": "y"}), "as a file and as a folder"),
    "no index": (zipped({"main.html": HELLO}), "no index.html"),
    "index elsewhere": (zipped({"x.txt": "a", "web/site/index.html": HELLO}), "There is web/site/index.html"),
    "zip in zip": (zipped({"dist.zip": zipped({"index.html": HELLO})}), "only another zip"),
    "source": (
        zipped({"package.json": "{}", "index.html": '<script type="module" src="/src/main.tsx"></script>'}),
        "source of a project",
    ),
    "source without index": (zipped({"package.json": "{}", "src/page.tsx": "x"}), "source of a project"),
}


async def test_bad_zips_are_refused_and_what_is_live_stays(deps: Deps, mcp: Any, app: App) -> None:
    await deploy(deps, mcp, app, {"index.html": PAGE.format("Live")})
    stored = await deps.control.fetchval("select count(*) from brolly.site_blobs where app_id = $1", app.id)
    for case, (data, said) in CASES.items():
        made = await mcp("create_frontend_deployment", app_id=app.id)
        assert (await upload(deps, made, data)).status_code == 200, case
        done = await mcp(
            "manage_frontend", action="start_deployment", app_id=app.id, deployment_id=made["deployment_id"]
        )
        assert (done["status"], done["live"], said in (done["error"] or "")) == ("ERROR", False, True), (case, done)
    assert stored == await deps.control.fetchval("select count(*) from brolly.site_blobs where app_id = $1", app.id)
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert "Live" in (await client.get("/")).text
    assert not list((deps.settings.home / "deploying").iterdir())
    # No zip is left either.
    assert [each.key async for each in deps.blob.listing(f"{app.id}-site/zip-")] == []


async def test_too_many_files_and_bytes_are_refused(
    deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brolly.hosting.archive import Bounds

    for bounds, said in ((Bounds(10**6, 2), "the most"), (Bounds(200, 100), "the most")):
        monkeypatch.setattr("brolly.hosting.start.bounds_of", lambda _, bounds=bounds: bounds)
        done = await deploy(deps, mcp, app, {"index.html": HELLO, "a.txt": "x" * 300, "b.txt": "y"})
        assert (done["status"], said in done["error"]) == ("ERROR", True), done


async def test_an_app_has_room_for_so_much_in_all_its_deployments(
    deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await deploy(deps, mcp, app, {"index.html": PAGE.format("Small"), "a.bin": os.urandom(600_000)})
    monkeypatch.setattr("brolly.hosting.publish.room_of", lambda _: 1_000_000)
    large = {"index.html": PAGE.format("Large"), "b.bin": os.urandom(600_000)}
    done = await deploy(deps, mcp, app, large)
    assert (done["status"], "BROLLY_SITE_STORAGE_MB" in done["error"]) == ("ERROR", True), done
    count = "select count(*) from brolly.site_blobs where app_id = $1"
    assert await deps.control.fetchval(count, app.id) == 2, "nothing was brought"
    # The same contents again take no room, and what goes makes some.
    assert (await deploy(deps, mcp, app, {"index.html": PAGE.format("Small")}))["status"] == "READY"
    await deps.control.execute("update brolly.sites set former_id = null where app_id = $1", app.id)
    await deps.control.execute("delete from brolly.deployments where id = $1::text::uuid", first["id"])
    assert (await deploy(deps, mcp, app, large))["status"] == "READY"


async def test_the_build_folder_itself_is_served_and_secrets_are_not(deps: Deps, mcp: Any, app: App) -> None:
    done = await deploy(
        deps, mcp, app, {"dist/index.html": HELLO, "dist/.env": "KEY=secret", "dist/.well-known/a.txt": "known"}
    )
    assert (done["status"], done["root"]) == ("READY", "dist")
    assert any("dist is served as the site's top" in each for each in done["warnings"])
    assert any(".env" in each for each in done["warnings"])
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert (await client.get("/")).text == HELLO
        assert (await client.get("/.env")).status_code == 404
        assert (await client.get("/.well-known/a.txt")).text == "known"


async def test_a_projects_output_folder_is_found(deps: Deps, mcp: Any, app: App) -> None:
    done = await deploy(
        deps, mcp, app, {"shop/package.json": "{}", "shop/src/a.tsx": "x", "shop/out/index.html": HELLO}
    )
    assert (done["status"], done["root"], done["fileCount"]) == ("READY", "shop/out", 1)


async def test_uploads_are_bounded_signed_and_end(deps: Deps, mcp: Any, app: App) -> None:
    made = await mcp("create_frontend_deployment", app_id=app.id)
    ref = {"app_id": app.id, "deployment_id": made["deployment_id"]}
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_frontend", action="start_deployment", **ref)
    assert failed.value.code == "STATE_PREREQUISITE_MISSING"

    forged = {"uploadUrl": made["uploadUrl"].replace("size=1", "size=9")}
    assert (await upload(deps, forged, zipped({"index.html": HELLO}))).status_code == 403
    async with site(deps, "brolly.test") as client:
        wrong = await client.put(made["uploadUrl"], content=b"x", headers={"Content-Type": "text/html"})
        assert wrong.json()["error"]["code"] == "VALIDATION_INVALID_INPUT"
        large = {"Content-Type": "application/zip", "Content-Length": "999999999999"}
        answer = await client.put(made["uploadUrl"], content=b"x", headers=large)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")

    # The later PUT counts.
    await upload(deps, made, zipped({"index.html": PAGE.format("First")}))
    await upload(deps, made, zipped({"index.html": PAGE.format("Second")}))
    await mcp("manage_frontend", action="start_deployment", **ref)
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert "Second" in (await client.get("/")).text
    for again in (
        mcp("manage_frontend", action="start_deployment", **ref),
        mcp("manage_frontend", action="promote", app_id=app.id, deployment_id=(await _failed(deps, mcp, app))["id"]),
    ):
        with pytest.raises(ToolFailed) as failed:
            await again
        assert failed.value.code == "STATE_INVALID_TRANSITION"
    late = await upload(deps, made, zipped({"index.html": HELLO}))
    assert late.json()["error"]["code"] == "STATE_INVALID_TRANSITION"


async def _failed(deps: Deps, mcp: Any, app: App) -> dict[str, Any]:
    return await deploy(deps, mcp, app, {"nothing.txt": "x"})


async def test_an_upload_url_expires(deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await mcp("create_frontend_deployment", app_id=app.id)
    monkeypatch.setattr("brolly.hosting.upload.time.time", lambda: 4_000_000_000.0)
    answer = await upload(deps, made, zipped({"index.html": HELLO}))
    assert (answer.status_code, "expired" in answer.text) == (403, True)
