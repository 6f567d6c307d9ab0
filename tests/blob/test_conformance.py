"""What every object store does; the same tests for the folder and for S3, over real HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from brolly.blob.store import CHUNK, BlobStore, Part
from brolly.core.errors import AppError

MIB = 1024 * 1024


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def text(store: BlobStore, key: str, *span: int) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, *span)])


async def put(store: BlobStore, key: str, data: bytes = b"hello", content_type: str = "text/plain") -> None:
    await store.write(key, stream(data), content_type=content_type)


async def test_what_is_written_is_read_with_its_facts(store: BlobStore, key: str) -> None:
    written = await store.write(key, stream(b"hel", b"", b"lo"), content_type="text/plain; charset=utf-8")
    assert (written.key, written.size, written.content_type) == (key, 5, "text/plain; charset=utf-8")
    assert abs(written.modified - datetime.now(UTC)) < timedelta(minutes=5)
    found = await store.head(key)
    assert found is not None
    assert (found.etag, found.size, found.content_type) == (written.etag, 5, written.content_type)
    assert await text(store, key) == b"hello"


@pytest.mark.parametrize(
    ("span", "expected"), [((1,), b"ello"), ((1, 3), b"ell"), ((0, 99), b"hello"), ((4, 1), b"o"), ((2, 0), b"")]
)
async def test_a_part_of_it_can_be_read(store: BlobStore, key: str, span: tuple[int, ...], expected: bytes) -> None:
    await put(store, key)
    assert await text(store, key, *span) == expected


async def test_an_empty_object_is_one(store: BlobStore, key: str) -> None:
    assert (await store.write(key, stream(), content_type="text/plain")).size == 0
    assert await text(store, key) == b""


async def test_what_is_not_there_is_missing(store: BlobStore, key: str) -> None:
    assert await store.head(key) is None
    with pytest.raises(AppError) as failed:
        await text(store, key)
    assert failed.value.code == "RESOURCE_NOT_FOUND"
    with pytest.raises(AppError) as failed:
        await store.copy(key, f"{key}.copy")
    assert failed.value.code == "RESOURCE_NOT_FOUND"


async def test_a_key_of_another_form_is_our_mistake(store: BlobStore) -> None:
    for wrong in ("../etc/passwd", "app/../../x", "app", "app/x\0yz"):
        with pytest.raises(ValueError, match="not a key"):
            await store.head(wrong)
        with pytest.raises(ValueError, match="not a key"):
            await put(store, wrong)
        with pytest.raises(ValueError, match="not a key"):
            store.presign_get(wrong, expires_s=60)


async def test_replacing_changes_the_etag_and_the_type(store: BlobStore, key: str) -> None:
    await put(store, key)
    before = await store.head(key)
    await put(store, key, b"other", "image/png")
    after = await store.head(key)
    assert before is not None
    assert after is not None
    assert after.etag != before.etag
    assert after.content_type == "image/png"
    assert await text(store, key) == b"other"


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ({"limit": 4}, "REQUEST_TOO_LARGE"),
        ({"size": 4}, "REQUEST_TOO_LARGE"),
        ({"size": 6}, "VALIDATION_INVALID_INPUT"),
        ({"sha256": hashlib.sha256(b"other").digest()}, "VALIDATION_INVALID_INPUT"),
    ],
)
async def test_what_is_not_as_declared_leaves_the_old_version(
    store: BlobStore, key: str, bounds: dict[str, int], code: str
) -> None:
    await put(store, key, b"old")
    with pytest.raises(AppError) as failed:
        await store.write(key, stream(b"he", b"llo"), content_type="text/plain", **bounds)  # type: ignore[arg-type]
    assert failed.value.code == code
    assert await text(store, key) == b"old"


async def test_what_is_as_declared_is_taken(store: BlobStore, key: str) -> None:
    digest = hashlib.sha256(b"hello").digest()
    await store.write(key, stream(b"hello"), content_type="text/plain", size=5, limit=5, sha256=digest)
    assert await text(store, key) == b"hello"


async def test_a_stream_that_breaks_off_leaves_nothing(store: BlobStore, key: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 9 * MIB
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.write(key, broken(), content_type="text/plain")
    assert await store.head(key) is None
    assert await store.open_multiparts(key) == []


async def test_a_long_stream_arrives_and_leaves_in_chunks(store: BlobStore, key: str) -> None:
    pieces = [bytes([i]) * 700_000 for i in range(26)]
    digest = hashlib.sha256(b"".join(pieces)).digest()
    written = await store.write(key, stream(*pieces), content_type="video/mp4", sha256=digest, size=26 * 700_000)
    assert written.size == 26 * 700_000
    got = hashlib.sha256()
    async for chunk in store.read(key):
        assert len(chunk) <= CHUNK
        got.update(chunk)
    assert got.digest() == digest
    async with aclosing(store.read(key)) as early:  # type: ignore[type-var]
        async for _ in early:
            break


async def test_a_copy_has_the_type_and_lives_on_its_own(store: BlobStore, key: str) -> None:
    await put(store, key, b"old", "image/png")
    target = f"{key}.copy"
    for _ in range(2):
        copied = await store.copy(key, target)
        assert (copied.key, copied.size, copied.content_type) == (target, 3, "image/png")
    await put(store, key, b"new")
    assert await text(store, target) == b"old"
    await store.delete([key])
    assert await text(store, target) == b"old"


async def test_deleting_bears_repetition(store: BlobStore, key: str) -> None:
    await put(store, key)
    for _ in range(2):
        await store.delete([key, f"{key}.other"])
    assert await store.head(key) is None
    await store.delete([])


async def test_listing_is_in_order_and_goes_on_after_a_key(store: BlobStore, namespace: str) -> None:
    names = sorted(["aaa", "aab", "aab.thumb", "aac", "abz", "b00", "b-0", "b_0", "zzz.x"])
    for name in names:
        await put(store, f"{namespace}/{name}", name.encode())
    await put(store, f"{namespace}x/aaa")
    keys = [f"{namespace}/{name}" for name in names]
    found = [each async for each in store.listing(f"{namespace}/")]
    assert [each.key for each in found] == keys
    assert [each.size for each in found] == [len(name) for name in names]
    assert [each.key async for each in store.listing(f"{namespace}/", keys[3])] == keys[4:]
    assert [each.key async for each in store.listing(f"{namespace}/aab")] == [k for k in keys if "/aab" in k]
    assert [each.key async for each in store.listing(f"{namespace}/q")] == []
    assert {namespace, f"{namespace}x"} <= set(await store.namespaces())


async def test_a_prefix_is_removed_and_nothing_beside_it(store: BlobStore, namespace: str) -> None:
    one, two = uuid4(), uuid4()
    for key in (f"{namespace}/{one}", f"{namespace}/{one}.w200", f"{namespace}/{two}", f"{namespace}x/{one}"):
        await put(store, key)
    upload = await store.create_multipart(f"{namespace}/{one}.part", content_type="text/plain")
    assert await store.delete_prefix(f"{namespace}/{one}") == 2
    assert await store.open_multiparts(f"{namespace}/") == []
    with pytest.raises(AppError) as failed:
        await store.write_part(f"{namespace}/{one}.part", upload, 1, 0, b"x")
    assert failed.value.code == "RESOURCE_NOT_FOUND"
    assert [each.key async for each in store.listing(f"{namespace}/")] == [f"{namespace}/{two}"]
    assert await store.delete_prefix(f"{namespace}/") == 1
    assert await store.delete_prefix(f"{namespace}/") == 0
    assert namespace not in await store.namespaces()
    assert f"{namespace}x" in await store.namespaces()


async def test_parts_make_an_object_only_when_all_is_there(store: BlobStore, key: str) -> None:
    first, second = b"a" * 5 * MIB, b"b" * 1000
    upload = await store.create_multipart(key, content_type="video/mp4")
    assert [(each.key, each.upload_id) for each in await store.open_multiparts(key)] == [(key, upload)]
    parts = [await store.write_part(key, upload, 1, 0, b"x" * 5 * MIB)]
    parts = [await store.write_part(key, upload, 1, 0, first)]
    assert parts[0] == Part(1, hashlib.md5(first).hexdigest(), len(first))
    parts.append(await store.write_part(key, upload, 2, len(first), second))
    assert await store.head(key) is None
    done = await store.complete_multipart(key, upload, parts)
    assert (done.size, done.content_type) == (len(first) + len(second), "video/mp4")
    assert await text(store, key) == first + second
    # Its answer may have been lost.
    assert (await store.complete_multipart(key, upload, parts)).etag == done.etag
    assert await store.open_multiparts(key) == []
    with pytest.raises(AppError) as failed:
        await store.write_part(key, upload, 3, done.size, b"late")
    assert failed.value.code == "RESOURCE_NOT_FOUND"
    assert await text(store, key, done.size - 1) == b"b"


async def test_an_upload_in_parts_can_be_dropped(store: BlobStore, key: str) -> None:
    upload = await store.create_multipart(key, content_type="text/plain")
    part = await store.write_part(key, upload, 1, 0, b"hello")
    for _ in range(2):
        await store.abort_multipart(key, upload)
    assert await store.head(key) is None
    for wrong in (upload, "0" * 32, "../../x"):
        with pytest.raises(AppError) as failed:
            await store.complete_multipart(key, wrong, [part])
        assert failed.value.code == "RESOURCE_NOT_FOUND"


async def test_a_store_that_works_says_so(store: BlobStore) -> None:
    await store.check()
    await store.tidy()
