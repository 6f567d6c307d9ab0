"""The whole way with an S3 service behind it: links lead there, and nobody tells us when bytes have come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from brolly.deps import Deps
from tests.blob.s3_server import s3_service, store_of
from tests.conftest import hold_open
from tests.storage.conftest import PNG, Place, code_of, make_place


@asynccontextmanager
async def s3_place(deps: Deps) -> AsyncIterator[Place]:
    """An app whose files are in a bucket."""
    async with s3_service() as settings:
        store = store_of(settings)
        try:
            async with make_place(replace(deps, blob=store)) as place:
                yield place
        finally:
            await store.close()


@pytest.fixture(scope="module")
async def bucket(deps: Deps) -> AsyncIterator[Place]:
    """The app for this module."""
    place, close = await hold_open(s3_place(deps))
    yield place
    await close()


async def keys(place: Place) -> list[str]:
    return [each.key async for each in place.deps.blob.listing(f"{place.app.id}/")]


async def test_a_users_file_goes_to_the_bucket_and_comes_back(bucket: Place) -> None:
    object_id = await bucket.store("A", name="Grüße.png")
    assert await keys(bucket) == [f"{bucket.app.id}/{object_id}"]
    # Nobody told us: the first look finds out.
    assert (await bucket.rows())[object_id]["status"] == "pending"
    link = (await bucket.link("A", object_id)).json()["download_url"]
    assert not link.startswith(bucket.deps.settings.base_url)
    got = await bucket.fetch(link)
    assert (got.status_code, got.content, got.headers["Content-Type"]) == (200, PNG, "image/png")
    assert "filename*=UTF-8''Gr%C3%BC%C3%9Fe.png" in got.headers["Content-Disposition"]
    row = (await bucket.rows())[object_id]
    assert (row["status"], row["etag"]) == ("ready", got.headers["ETag"].strip('"'))
    assert (await bucket.link("B", object_id)).status_code == 404
    copy = (await bucket.send("A", "POST", f"objects/{object_id}/copy", json={})).json()
    assert (copy["status"], len(await keys(bucket))) == ("ready", 2)
    for each in (object_id, copy["id"]):
        assert (await bucket.send("A", "DELETE", each)).status_code == 204
    assert (await keys(bucket), await bucket.rows(), await bucket.usage()) == ([], {}, (0, 0))


async def test_others_see_a_public_file_before_its_sender_has_looked(bucket: Place) -> None:
    open_to_all = await bucket.store("A", public=True)
    answer = await bucket.send("nobody", "GET", open_to_all)
    assert answer.status_code == 302
    assert (await bucket.fetch(answer.headers["Location"])).content == PNG
    waiting = (await bucket.reserve("A", public=True))["object_id"]
    for who, status in (("nobody", 404), ("B", 404), ("A", 200)):
        assert (await bucket.send(who, "GET", f"objects/{waiting}")).status_code == status
    # Its sender is told why there is no link; to others it is not there yet.
    assert "have not come" in (await bucket.link("A", waiting)).text
    assert "have not come" not in (await bucket.link("B", waiting)).text
    for each in (open_to_all, waiting):
        await bucket.send("A", "DELETE", each)


async def test_the_service_itself_refuses_what_is_not_as_declared(bucket: Place) -> None:
    link = await bucket.reserve("A")
    for data, headers in ((PNG + b"x", {}), (PNG, {"Content-Type": "text/html"})):
        assert (await bucket.put(link, data, **headers)).status_code >= 400
    assert await keys(bucket) == []
    answer = await bucket.link("A", link["object_id"])
    assert (answer.status_code, code_of(answer)) == (404, "RESOURCE_NOT_FOUND")
    assert (await bucket.put(link)).status_code == 200
    done = await bucket.send("A", "POST", f"objects/{link['object_id']}/complete")
    assert (done.status_code, done.json()["status"]) == (200, "ready")
    listed = (await bucket.send("A", "GET", "objects")).json()["objects"]
    assert [(o["id"], o["status"]) for o in listed] == [(link["object_id"], "ready")]


async def test_active_content_is_saved_also_from_the_bucket(bucket: Place) -> None:
    object_id = await bucket.store("A", b"<script>", "x.html", contentType="text/html")
    got = await bucket.fetch((await bucket.link("A", object_id)).json()["download_url"])
    assert got.headers["Content-Disposition"].startswith("attachment")
    assert got.headers["Content-Type"] == "application/octet-stream"


async def test_the_apps_end_empties_the_bucket(bucket: Place) -> None:
    answer = await bucket.clients["service"].delete(f"/apps/{bucket.app.id}")
    assert answer.status_code == 200, answer.text
    assert await keys(bucket) == []
