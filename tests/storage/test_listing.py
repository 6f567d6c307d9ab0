"""Lists, folders, renaming and copies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.storage.conftest import PNG, Place, code_of


async def listed(place: Place, who: str, query: str = "") -> dict[str, Any]:
    answer = await place.send(who, "GET", f"objects{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def rows_of(place: Place, *files: tuple[str, str, str]) -> None:
    """Rows as if they had been uploaded: who, folder, name."""
    for who, folder, name in files:
        await place.change(
            "insert into storage.objects (user_id, folder, filename, content_type, size_bytes, status, uploaded_at) "
            "values ($1, $2, $3, 'image/png', 1, 'ready', now())",
            place.ids.get(who),
            folder,
            name,
        )
    await place.change("update storage.usage set bytes = bytes + $1, files = files + $1", len(files))


async def test_pages_hold_each_file_once_newest_first(place: Place) -> None:
    await rows_of(place, *(("A" if n % 2 else "B", "", f"{n}.png") for n in range(25)))
    # All at the same moment: the id decides.
    await place.change("update storage.objects set created_at = now() where filename < '2'")
    seen: list[str] = []
    query = "?limit=4"
    while query:
        page = await listed(place, "service", query)
        seen += [o["id"] for o in page["objects"]]
        query = page["next_cursor"] and f"?limit=4&cursor={page['next_cursor']}"
    rows = await place.rows()
    assert seen == sorted(rows, key=lambda i: (rows[i]["created_at"], i), reverse=True)
    first = await listed(place, "A", "?limit=12")
    assert (len(first["objects"]), first["next_cursor"]) == (12, None)
    assert first["_meta"]["resource_info"]["files_count"] == 25
    assert set(first["objects"][0]) >= {
        *("id", "user_id", "key", "filename", "content_type", "size_bytes", "created_at", "object_key"),
    }


async def test_folders_are_seen_level_by_level(place: Place) -> None:
    await rows_of(
        place,
        ("A", "", "top.png"),
        ("A", "alben/", "x.png"),
        ("A", "alben/2025/", "y.png"),
        ("A", "alben/2026/mai/", "z.png"),
        ("A", "alben-alt/", "u.png"),
        ("B", "alben/2027/", "b.png"),
        ("B", "zoo/", "b.png"),
    )
    for who, folder, files, folders in (
        ("A", "", ["top.png"], ["alben-alt/", "alben/"]),
        ("A", "alben", ["x.png"], ["alben/2025/", "alben/2026/"]),
        ("A", "/alben/2026/", [], ["alben/2026/mai/"]),
        ("A", "zoo", [], []),
        ("service", "", ["top.png"], ["alben-alt/", "alben/", "zoo/"]),
        ("service", "alben/", ["x.png"], ["alben/2025/", "alben/2026/", "alben/2027/"]),
    ):
        page = await listed(place, who, f"?folder={folder}")
        assert ([o["filename"] for o in page["objects"]], page["folders"]) == (files, folders), (who, folder)
    found = await listed(place, "service", "?prefix=alben/202")
    assert sorted(o["filename"] for o in found["objects"]) == ["b.png", "y.png", "z.png"]
    assert [o["filename"] for o in (await listed(place, "A", "?prefix=alben/2026/mai/z"))["objects"]] == ["z.png"]
    assert not (await listed(place, "A", "?prefix=%25"))["objects"]


async def test_filters(place: Place) -> None:
    await place.store("A", name="a.png")
    await place.store("A", b"text", "b.txt", contentType="text/plain; charset=utf-8")
    await place.reserve("A", name="c.png")
    for query, names in (
        ("?content_type=image/*", ["c.png", "a.png"]),
        ("?contentType=image/png&status=ready", ["a.png"]),
        ("?content_type=text/*", ["b.txt"]),
        ("?content_type=%25", []),
        ("?status=pending", ["c.png"]),
    ):
        assert [o["filename"] for o in (await listed(place, "A", query))["objects"]] == names, query


@pytest.mark.parametrize(
    "query",
    ["?limit=0", "?limit=1001", "?cursor=x", "?cursor=W10=", "?status=gone", "?limti=3", "?prefix=%00", "?folder=a%00"],
)
async def test_what_a_list_does_not_take(place: Place, query: str) -> None:
    for who in ("A", "service"):
        assert (await place.send(who, "GET", f"objects{query}")).status_code == 400


async def test_a_filter_that_postgres_cannot_hold_is_a_mistake_of_the_caller(place: Place) -> None:
    for query in ("?user_id=%00", "?content_type=%00", "?content_type=%00/*"):
        answer = await place.send("service", "GET", f"objects{query}")
        assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_INVALID_INPUT"), query


async def test_moving_keeps_id_and_bytes(place: Place) -> None:
    object_id = await place.store("A")
    link = (await place.link("A", object_id)).json()["download_url"]
    answer = await place.send(
        "A", "PATCH", f"objects/{object_id}", json={"filename": "neu.png", "folder": "a/b", "public": True}
    )
    moved = answer.json()
    assert (moved["filename"], moved["folder"], moved["public"], moved["id"]) == ("neu.png", "a/b/", True, object_id)
    assert place.on_disk() == {object_id: PNG}
    assert (await place.fetch(link)).content == PNG
    assert (await place.link("nobody", object_id)).json()["filename"] == "neu.png"
    for body in ({}, {"filename": "a/b"}, {"folder": ".."}, {"user_id": "x"}, {"content_type": "text/html"}):
        assert (await place.send("A", "PATCH", f"objects/{object_id}", json=body)).status_code == 400
    assert (await place.rows())[object_id]["filename"] == "neu.png"


async def test_a_copy_has_its_own_bytes_and_counts(place: Place) -> None:
    object_id = await place.store("A", public=True)
    answer = await place.send("B", "POST", f"objects/{object_id}/copy", json={"folder": "kopien"})
    copy = answer.json()
    assert (answer.status_code, copy["status"], copy["folder"], copy["filename"]) == (201, "ready", "kopien/", "a.png")
    assert copy["user_id"] == place.ids["B"]
    assert await place.usage() == (2 * len(PNG), 2)
    assert (await place.send("A", "DELETE", object_id)).status_code == 204
    assert place.on_disk() == {copy["id"]: PNG}
    await place.configure(storageLimitBytes=2 * len(PNG) - 1)
    answer = await place.send("B", "POST", f"objects/{copy['id']}/copy", json={})
    assert (answer.status_code, code_of(answer)) == (429, "QUOTA_STORAGE_EXCEEDED")
    assert await place.usage() == (len(PNG), 1)


async def test_many_are_deleted_at_once(place: Place) -> None:
    ids = await asyncio.gather(*(place.store("A", b"x", f"{n}", contentType="text/plain") for n in range(12)))
    other = await place.store("B")
    answer = await place.send("A", "POST", "delete", json={"objectIds": [*ids, other, "nonsense"]})
    body = answer.json()
    assert (body["deleted"], body["object_ids"], body["missing"]) == (12, list(ids), [other, "nonsense"])
    assert set(place.on_disk()) == set(await place.rows()) == {other}
    assert await place.usage() == (len(PNG), 1)
    for wrong in ([], ["x"] * 1001, "x"):
        assert (await place.send("A", "POST", "delete", json={"object_ids": wrong})).status_code == 400
