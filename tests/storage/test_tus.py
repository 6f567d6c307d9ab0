"""Resumable uploads by the letter of tus 1.0.0: what arrives, what is kept when it breaks off, who may go on."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from brolly.blob.store import BlobStore
from tests.storage.conftest import Place

VERSION = {"Tus-Resumable": "1.0.0"}
PIECE = {**VERSION, "Content-Type": "application/offset+octet-stream"}
DATA = bytes(range(256)) * 1200


def metadata(**facts: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in facts.items())


async def create(place: Place, who: str = "A", size: int = len(DATA), **headers: str) -> httpx.Response:
    sent = {**VERSION, "Upload-Length": str(size), **headers}
    sent.setdefault("Upload-Metadata", metadata(filename="a.bin", filetype="image/png"))
    return await place.send(who, "POST", "tus", headers=sent)


async def begin(place: Place, who: str = "A", size: int = len(DATA)) -> str:
    answer = await create(place, who, size)
    assert answer.status_code == 201, answer.text
    object_id = answer.headers["X-Object-Id"]
    assert answer.headers["Location"] == f"http://brolly.test/storage/{place.app.id}/tus/{object_id}"
    assert answer.headers["Upload-Expires"]
    return object_id


async def patch(
    place: Place, object_id: str, offset: int, data: Any, who: str = "A", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    sent = {**PIECE, "Upload-Offset": str(offset), **(headers or {})}
    return await place.send(who, "PATCH", f"tus/{object_id}", content=data, headers=sent)


async def offset_of(place: Place, object_id: str, who: str = "A") -> int:
    answer = await place.send(who, "HEAD", f"tus/{object_id}", headers=VERSION)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    return int(answer.headers["Upload-Offset"])


async def stored(place: Place, object_id: str) -> bytes:
    blob: BlobStore = place.deps.blob
    return b"".join([chunk async for chunk in blob.read(f"{place.app.id}/{object_id}")])


@pytest.mark.parametrize("length", [len(DATA), 100_000, 65_536, 7_000])
async def test_a_file_arrives_in_pieces_of_any_length(place: Place, length: int) -> None:
    object_id = await begin(place)
    assert await place.usage() == (len(DATA), 1)
    for start in range(0, len(DATA), length):
        assert await offset_of(place, object_id) == start
        assert (await place.link("A", object_id)).status_code == 404
        answer = await patch(place, object_id, start, DATA[start : start + length])
        assert answer.status_code == 204, answer.text
        assert answer.headers["Upload-Offset"] == str(min(len(DATA), start + length))
    assert await offset_of(place, object_id) == len(DATA)
    assert await stored(place, object_id) == DATA
    rows = await place.rows()
    assert (rows[object_id]["status"], rows[object_id]["filename"]) == ("ready", "a.bin")
    assert set(place.on_disk()) == {object_id}
    download = await place.fetch((await place.link("A", object_id)).json()["download_url"])
    assert (download.content, download.headers["Content-Type"]) == (DATA, "image/png")


async def test_what_a_broken_connection_has_brought_is_kept(place: Place) -> None:
    object_id = await begin(place)
    app = place.clients["A"]._transport.app  # type: ignore[attr-defined]
    messages = iter([{"type": "http.request", "body": DATA[:90_000], "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(_message: Any) -> None:
        pass

    headers = {**PIECE, "Upload-Offset": "0", "Authorization": place.clients["A"].headers["Authorization"]}
    path = f"/storage/{place.app.id}/tus/{object_id}"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "PATCH", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("brolly.test", 80), "headers": [(n.lower().encode(), v.encode()) for n, v in headers.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    assert await offset_of(place, object_id) == 90_000
    assert (await patch(place, object_id, 90_000, DATA[90_000:])).status_code == 204
    assert await stored(place, object_id) == DATA


async def test_long_pieces_become_parts_as_they_come(place: Place) -> None:
    await place.configure(maxFileSizeMb=40)
    data = DATA * 60
    object_id = await begin(place, size=len(data))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 60_000):
            yield data[start : start + 60_000]

    assert (await patch(place, object_id, 0, chunks())).status_code == 204
    assert hashlib.sha256(await stored(place, object_id)).digest() == hashlib.sha256(data).digest()


async def test_a_piece_goes_on_where_the_upload_is_and_nowhere_else(place: Place) -> None:
    object_id = await begin(place)
    assert (await patch(place, object_id, 0, DATA[:1000])).status_code == 204
    for offset in (0, 999, 1001, 10**17):
        answer = await patch(place, object_id, offset, b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "RESOURCE_CONFLICT")
        assert answer.json()["error"]["details"] == {"offset": 1000}
    too_much = await patch(place, object_id, 1000, DATA)
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")

    async def unannounced() -> AsyncIterator[bytes]:
        yield DATA

    assert (await patch(place, object_id, 1000, unannounced())).status_code == 413
    assert await offset_of(place, object_id) == 1000
    assert (await patch(place, object_id, 1000, DATA[1000:])).status_code == 204
    assert await stored(place, object_id) == DATA
    assert (await patch(place, object_id, len(DATA), b"x")).status_code == 409


async def test_who_comes_later_takes_over(place: Place) -> None:
    object_id = await begin(place)

    async def overtaken() -> AsyncIterator[bytes]:
        yield DATA[:70_000]
        assert (await patch(place, object_id, 0, DATA[:200_000])).status_code == 204
        yield DATA[70_000:80_000]

    answer = await patch(place, object_id, 0, overtaken())
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "RESOURCE_CONFLICT")
    assert await offset_of(place, object_id) == 200_000
    assert (await patch(place, object_id, 200_000, DATA[200_000:])).status_code == 204
    assert await stored(place, object_id) == DATA


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
async def test_a_piece_with_another_checksum_leaves_nothing(place: Place, algorithm: str) -> None:
    object_id = await begin(place)
    good = base64.b64encode(hashlib.new(algorithm, DATA[:100_000]).digest()).decode()
    bad = await patch(place, object_id, 0, DATA[1:100_001], headers={"Upload-Checksum": f"{algorithm} {good}"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (460, "VALIDATION_INVALID_INPUT")
    assert await offset_of(place, object_id) == 0
    for wrong in ("crc32 AAAA", algorithm, f"{algorithm} !!!", f"{algorithm} AAAA"):
        answer = await patch(place, object_id, 0, DATA[:10], headers={"Upload-Checksum": wrong})
        assert answer.status_code == 400, wrong
    answer = await patch(place, object_id, 0, DATA[:100_000], headers={"Upload-Checksum": f"{algorithm} {good}"})
    assert answer.status_code == 204
    assert (await patch(place, object_id, 100_000, DATA[100_000:])).status_code == 204
    assert await stored(place, object_id) == DATA


async def test_the_first_piece_may_come_with_the_creation(place: Place) -> None:
    headers = {**PIECE, "Upload-Length": str(len(DATA)), "Upload-Metadata": metadata(name="b.txt", folder="in")}
    part = await place.send("A", "POST", "tus", content=DATA[:500], headers=headers)
    assert (part.status_code, part.headers["Upload-Offset"]) == (201, "500")
    whole = await place.send("A", "POST", "tus", content=DATA, headers=headers)
    assert (whole.status_code, whole.headers["Upload-Offset"]) == (201, str(len(DATA)))
    row = (await place.rows())[whole.headers["X-Object-Id"]]
    assert (row["status"], row["filename"], row["folder"], row["public"]) == ("ready", "b.txt", "in/", False)


async def test_an_upload_belongs_to_who_began_it(place: Place) -> None:
    object_id = await begin(place)
    for who, status in (("B", 404), ("nobody", 401)):
        tries = [
            await place.send(who, "HEAD", f"tus/{object_id}", headers=VERSION),
            await patch(place, object_id, 0, DATA, who),
            await place.send(who, "DELETE", f"tus/{object_id}", headers=VERSION),
        ]
        assert [each.status_code for each in tries] == [status] * 3
    assert (await create(place, "nobody")).status_code == 401
    assert await offset_of(place, object_id) == 0
    ordinary = await place.store("A")
    assert (await place.send("A", "HEAD", f"tus/{ordinary}", headers=VERSION)).status_code == 404


async def test_giving_up_frees_the_room(place: Place) -> None:
    object_id = await begin(place)
    assert (await patch(place, object_id, 0, DATA[:100_010])).status_code == 204
    answer = await place.send("A", "DELETE", f"tus/{object_id}", headers=VERSION)
    assert answer.status_code == 204
    assert await place.usage() == (0, 0)
    assert place.on_disk() == {}
    assert await place.deps.blob.open_multiparts(f"{place.app.id}/") == []
    assert (await place.send("A", "HEAD", f"tus/{object_id}", headers=VERSION)).status_code == 404
    override = await begin(place)
    headers = {**VERSION, "X-HTTP-Method-Override": "DELETE"}
    assert (await place.send("A", "POST", f"tus/{override}", headers=headers)).status_code == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Tus-Resumable": "0.2.2"}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": "0"}, 400),
        ({"Upload-Length": "many"}, 400),
        ({"Upload-Defer-Length": "1"}, 400),
        ({"Upload-Length": str(11 * 1024 * 1024)}, 400),
        ({"Upload-Metadata": "filename !!!"}, 400),
        ({"Upload-Metadata": "filename " + base64.b64encode(b"\xff\xfe").decode()}, 400),
        ({"Upload-Metadata": "x" * 9000}, 400),
        ({"Upload-Metadata": metadata(filename="a", filetype="no type")}, 400),
    ],
)
async def test_what_cannot_be_an_upload_reserves_nothing(place: Place, headers: dict[str, str], status: int) -> None:
    assert (await create(place, "A", len(DATA), **headers)).status_code == status
    assert await place.usage() == (0, 0)


async def test_pieces_have_their_own_type_and_offset(place: Place) -> None:
    object_id = await begin(place)
    for changed, status in (
        ({"Content-Type": "application/octet-stream"}, 415),
        ({"Upload-Offset": "x"}, 400),
        ({"Tus-Resumable": "2.0.0"}, 400),
    ):
        assert (await patch(place, object_id, 0, b"x", headers=changed)).status_code == status
    assert (await place.send("A", "POST", f"tus/{object_id}", headers=VERSION)).status_code == 400


async def test_an_end_that_was_interrupted_is_made_up_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from brolly.core.errors import AppError

    object_id = await begin(place)

    async def down(*_arguments: Any) -> None:
        raise AppError("S3_ERROR", "The store is down.")

    monkeypatch.setattr(type(place.deps.blob), "complete_multipart", down)
    answer = await patch(place, object_id, 0, DATA)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "S3_ERROR")
    monkeypatch.undo()
    assert await offset_of(place, object_id) == len(DATA)
    assert await stored(place, object_id) == DATA
    assert (await place.rows())[object_id]["status"] == "ready"


async def test_a_browser_may_ask_and_hear(place: Place) -> None:
    answer = await place.send("nobody", "OPTIONS", "tus")
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert "creation-with-upload" in answer.headers["Tus-Extension"]
    origin = "http://localhost:3000"
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,tus-resumable,upload-offset",
    }
    preflight = await place.send("nobody", "OPTIONS", "tus", headers=asked)
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in ("tus-resumable", "upload-offset", "upload-length", "upload-metadata"))
    heard = await place.send("A", "POST", "tus", headers={**VERSION, "Origin": origin, "Upload-Length": "5"})
    exposed = heard.headers["Access-Control-Expose-Headers"].lower()
    assert all(name in exposed for name in ("location", "upload-offset", "tus-resumable", "upload-expires"))


async def test_each_piece_gives_an_upload_its_time_again(place: Place) -> None:
    object_id = await begin(place)
    await place.change("update storage.objects set expires_at = now() + interval '1 min'")
    assert (await patch(place, object_id, 0, DATA[:10])).status_code == 204
    async with place.sql() as connection:
        assert await connection.fetchval("select expires_at > now() + interval '23 hours' from storage.objects")
        parts = await connection.fetchrow("select parts, received, tail from storage.uploads")
    assert (json.loads(parts["parts"]), parts["received"], parts["tail"]) == ([], 10, 10)
