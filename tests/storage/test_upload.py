"""A file's way in and out again: rows, bytes and links."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from brolly.core.errors import AppError
from tests.conftest import McpCall, ToolFailed
from tests.storage.conftest import PNG, Place, code_of


async def test_a_users_file_goes_in_and_comes_out_again(place: Place) -> None:
    link = await place.reserve("A", public=False)
    assert link["uploadUrl"] == link["upload_url"]
    assert link["objectId"] == link["object_id"]
    assert (link["objectKey"], link["expiresIn"]) == (f"{place.app.id}/{link['object_id']}", 900)
    assert link["_meta"]["resource_info"] == {
        "storage_used_bytes": len(PNG),
        "storage_limit_bytes": 2**30,
        "storage_used_percent": 0.0,
        "files_count": 1,
    }
    row = (await place.rows())[link["object_id"]]
    assert (row["status"], row["user_id"], row["size_bytes"]) == ("pending", place.ids["A"], len(PNG))
    assert not place.on_disk()
    # As the published clients do: Content-Type and nothing else.
    assert (await place.put(link)).status_code == 200
    row = (await place.rows())[link["object_id"]]
    assert (row["status"], row["expires_at"], row["filename"]) == ("ready", None, "a.png")
    assert place.on_disk() == {link["object_id"]: PNG}
    answer = (await place.link("A", link["object_id"])).json()
    assert (answer["filename"], answer["expiresIn"]) == ("a.png", 3600)
    assert answer["downloadUrl"] == answer["download_url"]
    got = await place.fetch(answer["download_url"])
    assert (got.status_code, got.content, got.headers["Content-Type"]) == (200, PNG, "image/png")
    assert got.headers["Content-Disposition"] == 'inline; filename="a.png"'
    assert got.headers["ETag"].strip('"') == row["etag"]


async def test_a_file_that_was_only_reserved_has_no_link(place: Place) -> None:
    link = await place.reserve("A")
    for who in ("A", "service"):
        answer = await place.link(who, link["object_id"])
        assert (answer.status_code, code_of(answer)) == (404, "RESOURCE_NOT_FOUND")
    listed = (await place.send("A", "GET", "objects")).json()["objects"]
    assert [(o["id"], o["status"]) for o in listed] == [(link["object_id"], "pending")]


async def test_bytes_that_came_behind_our_back_make_the_file_ready_at_the_next_look(place: Place) -> None:
    """As with an S3, which tells nobody: by list, by get, by link or because the client says so."""
    looks: list[tuple[str, str]] = [
        ("GET", "objects"),
        ("GET", "objects/{}"),
        ("GET", "download/{}"),
        ("POST", "objects/{}/complete"),
    ]
    for method, path in looks:
        link = await place.reserve("A")
        await place.behind(link)
        assert (await place.rows())[link["object_id"]]["status"] == "pending"
        answer = await place.send("A", method, path.format(link["object_id"]))
        assert answer.status_code == 200, answer.text
        assert (await place.rows())[link["object_id"]]["status"] == "ready"
    await place.usage()


@pytest.mark.parametrize(("came", "content_type"), [(PNG + b"x", "image/png"), (PNG, "text/html")])
async def test_what_a_store_took_and_is_not_as_declared_is_removed(
    place: Place, came: bytes, content_type: str
) -> None:
    link = await place.reserve("A")
    await place.behind(link, came, content_type)
    answer = await place.link("A", link["object_id"])
    assert (answer.status_code, code_of(answer)) == (404, "RESOURCE_NOT_FOUND")
    assert (await place.rows(), place.on_disk(), await place.usage()) == ({}, {}, (0, 0))


async def test_a_smaller_file_counts_as_what_it_is(place: Place) -> None:
    link = await place.reserve("A", PNG + b"1234")
    await place.behind(link)
    assert (await place.link("A", link["object_id"])).status_code == 200
    assert await place.usage() == (len(PNG), 1)


async def test_completing_before_the_bytes_came_says_so(place: Place) -> None:
    link = await place.reserve("A")
    answer = await place.send("A", "POST", f"objects/{link['object_id']}/complete")
    assert (answer.status_code, code_of(answer)) == (404, "RESOURCE_NOT_FOUND")
    assert "bytes have not come" in answer.json()["error"]["message"]


async def test_what_is_not_as_declared_is_refused_and_leaves_nothing(place: Place) -> None:
    link = await place.reserve("A")
    for data, headers in (
        (PNG + b"x", {}),
        (PNG[:-1], {}),
        (b"", {}),
        (PNG, {"Content-Type": "text/html"}),
        (PNG, {"Content-Type": "image/png; charset=utf-8"}),
    ):
        assert (await place.put(link, data, **headers)).status_code >= 400
        assert not place.on_disk()
    assert (await place.rows())[link["object_id"]]["status"] == "pending"
    assert (await place.put(link)).status_code == 200


async def test_altered_and_foreign_signatures_are_refused(place: Place) -> None:
    one, two = await place.reserve("A"), await place.reserve("B")
    url = one["upload_url"]
    swapped = url.replace(one["object_id"], two["object_id"])
    for bad in (swapped, url.replace("signature=", "signature=0"), url.replace("image%2Fpng", "text%2Fhtml")):
        answer = await place.put({**one, "upload_url": bad})
        assert (answer.status_code, code_of(answer)) == (403, "AUTH_FORBIDDEN")
    object_id = await place.store("A")
    download = (await place.link("A", object_id)).json()["download_url"]
    # A link to read does not write, and the link to write does not read.
    assert (await place.put({**one, "upload_url": download})).status_code == 403
    assert (await place.fetch(url)).status_code == 403
    assert set(place.on_disk()) == {object_id}


async def test_a_link_brings_no_bytes_of_what_was_deleted(place: Place) -> None:
    link = await place.reserve("A")
    assert (await place.send("A", "DELETE", link["object_id"])).status_code == 204
    answer = await place.put(link)
    assert (answer.status_code, code_of(answer)) == (404, "RESOURCE_NOT_FOUND")
    assert (await place.rows(), place.on_disk(), await place.usage()) == ({}, {}, (0, 0))


async def test_a_link_may_be_used_twice_and_the_last_bytes_count(place: Place) -> None:
    link = await place.reserve("A", b"aaaa")
    assert (await place.put(link, b"aaaa")).status_code == 200
    etag = (await place.rows())[link["object_id"]]["etag"]
    assert (await place.put(link, b"bbbb")).status_code == 200
    assert place.on_disk()[link["object_id"]] == b"bbbb"
    assert (await place.rows())[link["object_id"]]["etag"] != etag
    assert await place.usage() == (4, 1)


async def test_a_declared_digest_is_held_and_shown(place: Place) -> None:
    digest = hashlib.sha256(PNG).hexdigest()
    link = await place.reserve("A", sha256=digest)
    assert (await place.put(link, bytes(len(PNG)))).status_code == 400
    assert not place.on_disk()
    assert (await place.put(link)).status_code == 200
    got = (await place.send("A", "GET", f"objects/{link['object_id']}")).json()
    assert (got["sha256"], got["size_bytes"], got["status"]) == (digest, len(PNG), "ready")


async def test_reservations_at_the_same_moment_never_exceed_the_quota(place: Place) -> None:
    await place.configure(storageLimitBytes=7 * len(PNG))
    body = {"filename": "a.png", "contentType": "image/png", "sizeBytes": len(PNG)}
    answers = await asyncio.gather(
        *(place.send(who, "POST", "upload", json=body) for who in ("A", "B") for _ in range(10))
    )
    assert sorted(a.status_code for a in answers) == [200] * 7 + [429] * 13
    refused = next(a for a in answers if a.status_code == 429)
    assert code_of(refused) == "QUOTA_STORAGE_EXCEEDED"
    assert refused.json()["error"]["details"]["limit_bytes"] == 7 * len(PNG)
    assert await place.usage() == (7 * len(PNG), 7)
    # Room comes back with a deletion.
    gone = next(iter(await place.rows()))
    assert (await place.send("service", "DELETE", gone)).status_code == 204
    assert (await place.send("A", "POST", "upload", json=body)).status_code == 200


async def test_the_apps_rules_hold(place: Place) -> None:
    await place.configure(maxFileSizeMb=1, allowedContentTypes=["image/*", "application/pdf"])

    async def attempt(**changes: Any) -> tuple[int, str]:
        body = {"filename": "a", "contentType": "image/png", "sizeBytes": 9, **changes}
        answer = await place.send("A", "POST", "upload", json=body)
        return answer.status_code, "" if answer.status_code == 200 else code_of(answer)

    assert await attempt() == (200, "")
    assert await attempt(contentType="IMAGE/WebP") == (200, "")
    assert await attempt(contentType="application/pdf") == (200, "")
    before = await place.usage()
    assert await attempt(sizeBytes=2**20 + 1) == (400, "QUOTA_FILE_SIZE_EXCEEDED")
    assert await attempt(contentType="text/html") == (400, "VALIDATION_INVALID_TYPE")
    for bad in (
        "",
        "image",
        "image/png\r\nX: y",
        "image/png; boundary=\n",
        "imagé/png",
        "image/png/",
        "a" * 300 + "/b",
    ):
        assert (await attempt(contentType=bad))[1] == "VALIDATION_INVALID_TYPE", bad
    for size in (0, -1, 2**63, 1.5, "many", None):
        assert (await attempt(sizeBytes=size))[0] == 400, size
    assert await place.usage() == before


HOSTILE = [
    "",
    "   ",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "gpj\u202egnp.exe",
    "a\u2215b",
    "a\uff0fb",
    "a\u2044b",
    "a\u200bb",
    "\ufeffa",
    "a\ud800",
    "x" * 256,
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
async def test_hostile_names_are_refused(place: Place, name: str) -> None:
    import json

    body = {"filename": name, "contentType": "image/png", "sizeBytes": 4}
    # Half a character is no UTF-8: it comes as an escape.
    answer = await place.send("A", "POST", "upload", content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert await place.rows() == {}


async def test_names_are_kept_in_one_form_and_handed_out_whole(place: Place) -> None:
    name = 'Gru\u0308ße 日本 👩‍👩‍👧 "x"; %41\'.png'
    object_id = await place.store("A", name=name, folder="/alben/2026/")
    row = (await place.rows())[object_id]
    assert (row["filename"], row["folder"]) == ('Grüße 日本 👩‍👩‍👧 "x"; %41\'.png', "alben/2026/")
    got = await place.fetch((await place.link("A", object_id)).json()["download_url"])
    said = got.headers["Content-Disposition"]
    assert "filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%E6%97%A5" in said
    assert said.count('"') == 2
    assert set(place.on_disk()) == {object_id}
    long = await place.store("A", name="ä" * 255)
    assert (await place.rows())[long]["filename"] == "ä" * 255


@pytest.mark.parametrize("folder", ["../x", "a/../b", "a//b", "a/\0", "x" * 300, "/".join(["ab"] * 600)])
async def test_hostile_folders_are_refused(place: Place, folder: str) -> None:
    body = {"filename": "a", "contentType": "image/png", "sizeBytes": 4, "folder": folder}
    answer = await place.send("A", "POST", "upload", json=body)
    assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_INVALID_NAME")
    assert await place.rows() == {}


@pytest.mark.parametrize(
    ("content_type", "inline"),
    [
        ("image/png", True),
        ("video/mp4", True),
        ("application/pdf", True),
        ("text/html", False),
        ("image/svg+xml", False),
        ("application/xhtml+xml", False),
        ("text/xml", False),
        ("text/javascript", False),
        ("application/javascript", False),
        ("text/css", False),
        ("application/octet-stream", False),
    ],
)
async def test_what_could_run_is_saved_and_never_shown(place: Place, content_type: str, inline: bool) -> None:
    object_id = await place.store("A", b"<script>", "x", contentType=content_type)
    got = await place.fetch((await place.link("A", object_id)).json()["download_url"])
    assert got.content == b"<script>"
    assert got.headers["Content-Disposition"].startswith("inline" if inline else "attachment")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    if content_type not in ("application/pdf",):
        assert "sandbox" in got.headers["Content-Security-Policy"]
    kind = got.headers["Content-Type"]
    assert inline or not any(word in kind for word in ("html", "xml", "script")), kind


async def test_a_link_that_saves_what_could_be_shown(place: Place) -> None:
    object_id = await place.store("A")
    answer = await place.send("A", "GET", f"download/{object_id}?download=true")
    got = await place.fetch(answer.json()["download_url"])
    assert got.headers["Content-Disposition"] == 'attachment; filename="a.png"'


async def test_a_store_that_is_down_is_said_and_leaves_no_ghost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    object_id = await place.store("A")

    async def down(*_: Any, **__: Any) -> Any:
        raise AppError("S3_ERROR", "down", retry_after=5)

    link = await place.reserve("A")
    with monkeypatch.context() as broken:
        for name in ("head", "delete_prefix", "delete", "copy"):
            broken.setattr(place.deps.blob, name, down)
        answer = await place.link("A", link["object_id"])
        assert (answer.status_code, code_of(answer), answer.headers["Retry-After"]) == (503, "S3_ERROR", "5")
        assert (await place.send("A", "DELETE", object_id)).status_code == 503
        # Gone for everybody at once, although its bytes are still there.
        assert (await place.link("A", object_id)).status_code == 404
        listed = await place.send("A", "GET", "objects")
        assert [o["id"] for o in listed.json()["objects"]] == [link["object_id"]]
    assert object_id in place.on_disk()
    assert (await place.send("A", "DELETE", object_id)).status_code == 204
    assert set(await place.rows()) == {link["object_id"]}
    assert not place.on_disk()
    await place.usage()


async def test_the_tool_does_it_all(place: Place) -> None:
    from tests.conftest import mcp_session

    async with mcp_session(place.deps, place.owner) as mcp:
        link = await mcp(
            "manage_storage",
            app_id=place.app.id,
            action="upload_url",
            filename="a.png",
            content_type="image/png",
            size_bytes=len(PNG),
        )
        assert (await place.put(link)).status_code == 200
        listed = await mcp("manage_storage", app_id=place.app.id, action="list")
        assert [(o["id"], o["user_id"], o["size_bytes"]) for o in listed["objects"]] == [
            (link["object_id"], None, len(PNG))
        ]
        got = await mcp("manage_storage", app_id=place.app.id, action="download_url", object_id=link["object_id"])
        assert (await place.fetch(got["download_url"])).content == PNG
        await refused(mcp, place, "CONFIRMATION_REQUIRED", action="delete", object_id=link["object_id"])
        assert place.on_disk()
        gone = await mcp(
            "manage_storage", app_id=place.app.id, action="delete", object_id=link["object_id"], confirm=True
        )
        assert gone["deleted"] is True
        assert (await place.rows(), place.on_disk()) == ({}, {})
        await refused(mcp, place, "RESOURCE_NOT_FOUND", action="delete", object_id=link["object_id"], confirm=True)
        await refused(mcp, place, "VALIDATION_INVALID_SCHEMA", action="update_config")
        done = await mcp("manage_storage", app_id=place.app.id, action="update_config", publicReadEnabled=True)
        assert done["storage_config"]["publicReadEnabled"] is True
        await refused(mcp, place, "VALIDATION_INVALID_SCHEMA", action="update_config", storageLimitBytes=2**59)


async def refused(mcp: McpCall, place: Place, code: str, **arguments: Any) -> None:
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_storage", app_id=place.app.id, **arguments)
    assert failed.value.code == code


async def test_one_user_cannot_fill_the_quota_of_all(place: Place) -> None:
    await place.configure(maxBytesPerUser=1000)
    body = {"filename": "a.png", "contentType": "image/png", "sizeBytes": 300}
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "300"}
    plain = [place.send("A", "POST", "upload", json=body) for _ in range(6)]
    pieces = [place.send("A", "POST", "tus", headers=tus) for _ in range(6)]
    answers = await asyncio.gather(*plain, *pieces)
    assert sum(answer.status_code < 300 for answer in answers) == 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (code_of(refused), refused.json()["error"]["details"]["limit_bytes"]) == ("QUOTA_STORAGE_EXCEEDED", 1000)
    assert await place.usage() == (900, 3)
    for who in ("B", "service"):
        assert (await place.send(who, "POST", "upload", json=body)).status_code == 200
    assert (await place.send("service", "POST", "upload", json={**body, "sizeBytes": 5000})).status_code == 200
    await place.configure(maxBytesPerUser=0)
    assert (await place.send("A", "POST", "upload", json=body)).status_code == 200


async def test_a_sender_that_says_nothing_loses_its_connection(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brolly.incoming.IDLE_SECONDS", 0.05)
    link = await place.reserve("A")

    async def stalling() -> AsyncIterator[bytes]:
        yield PNG[:10]
        await asyncio.sleep(30)

    answer = await place.put(link, stalling(), **{"Content-Length": str(len(PNG))})  # type: ignore[arg-type]
    assert (answer.status_code, answer.headers["Connection"]) == (400, "close")
    assert place.on_disk() == {}
    assert (await place.put(link)).status_code == 200


async def test_dates_beyond_all_calendars_ask_for_nothing(place: Place) -> None:
    object_id = await place.store("A")
    url = (await place.link("A", object_id)).json()["download_url"]
    for name in ("If-Modified-Since", "If-Unmodified-Since", "If-Range"):
        answer = await place.fetch(url, **{name: "Fri, 31 Dec 9999 23:59:59 -1200"})
        assert (answer.status_code, answer.content) == (200, PNG)
