"""Signed URLs of every object store: what they allow, and that the store itself refuses the rest."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncIterator, Mapping

import anyio
import httpx
import pytest

from brolly.blob.store import BlobStore, PresignedUpload
from tests.blob.test_conformance import put, text

DATA = b"0123456789"
PNG = "image/png"


def upload_url(store: BlobStore, key: str, size: int = len(DATA), **more: object) -> PresignedUpload:
    return store.presign_put(key, content_type=PNG, size=size, expires_s=60, **more)  # type: ignore[arg-type]


async def send(
    browser: httpx.AsyncClient, upload: PresignedUpload, data: bytes = DATA, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return await browser.request(upload.method, upload.url, content=data, headers={**upload.headers, **(headers or {})})


async def test_a_put_needs_the_url_and_its_headers_alone(
    store: BlobStore, browser: httpx.AsyncClient, key: str
) -> None:
    upload = upload_url(store, key)
    assert upload.method == "PUT"
    assert dict(upload.headers) == {"Content-Type": PNG}
    assert 50 < upload.expires_at.timestamp() - time.time() <= 61
    assert (await send(browser, upload)).is_success
    stat = await store.head(key)
    assert stat is not None
    assert (stat.size, stat.content_type) == (len(DATA), PNG)
    assert await text(store, key) == DATA
    # The answer may have been lost: the same again is no error.
    again = await send(browser, upload)
    assert again.is_success
    assert again.headers["ETag"] == f'"{stat.etag}"'


@pytest.mark.parametrize("data", [DATA + b"x", DATA[:-1], b""])
async def test_another_size_is_refused(store: BlobStore, browser: httpx.AsyncClient, key: str, data: bytes) -> None:
    assert 400 <= (await send(browser, upload_url(store, key), data)).status_code < 500
    assert await store.head(key) is None


@pytest.mark.parametrize("content_type", ["text/html", "image/png; charset=utf-8", "image/jpeg", ""])
async def test_another_type_is_refused(
    store: BlobStore, browser: httpx.AsyncClient, key: str, content_type: str
) -> None:
    answer = await send(browser, upload_url(store, key), headers={"Content-Type": content_type})
    assert 400 <= answer.status_code < 500
    assert await store.head(key) is None


async def test_a_body_without_length_cannot_be_longer(store: BlobStore, browser: httpx.AsyncClient, key: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield DATA
        yield b"more"

    upload = upload_url(store, key)
    answer = await browser.put(upload.url, content=pieces(), headers=dict(upload.headers))
    assert 400 <= answer.status_code < 500
    assert await store.head(key) is None


async def test_other_bytes_than_the_digest_says_are_refused(
    store: BlobStore, browser: httpx.AsyncClient, key: str
) -> None:
    upload = upload_url(store, key, sha256=hashlib.sha256(DATA).digest())
    assert 400 <= (await send(browser, upload, b"9876543210")).status_code < 500
    assert await store.head(key) is None
    assert (await send(browser, upload)).is_success
    assert await text(store, key) == DATA


async def test_a_url_is_good_for_its_key_and_method_alone(
    store: BlobStore, browser: httpx.AsyncClient, key: str
) -> None:
    await put(store, key, b"old")
    other = key[:-4] + "0000"
    upload, download = upload_url(store, key), store.presign_get(key, expires_s=60)
    await put(store, other, b"secret")
    tries = [
        await browser.put(upload.url.replace(key, other), content=DATA, headers=dict(upload.headers)),
        await browser.put(download, content=DATA, headers=dict(upload.headers)),
        await browser.get(download.replace(key, other)),
        await browser.get(upload.url),
        await browser.delete(download),
        await browser.get(download.partition("?")[0]),
        await browser.get(download + "&x=1"),
        await browser.get(download[:-1] + ("0" if download[-1] != "0" else "1")),
        await browser.get(re.sub(r"(xpires=)\d+", r"\g<1>9999999999", download)),
    ]
    assert all(400 <= each.status_code < 500 for each in tries), [each.status_code for each in tries]
    assert await text(store, key) == b"old"
    assert await text(store, other) == b"secret"


async def test_a_url_expires(store: BlobStore, browser: httpx.AsyncClient, key: str) -> None:
    await put(store, key, b"old")
    upload = store.presign_put(key, content_type=PNG, size=len(DATA), expires_s=1)
    download = store.presign_get(key, expires_s=1)
    with anyio.fail_after(10):
        while (await browser.get(download)).status_code != 403:  # noqa: ASYNC110
            await anyio.sleep(0.1)
        while (await send(browser, upload)).is_success:  # noqa: ASYNC110
            await anyio.sleep(0.1)
    assert await text(store, key) in (b"old", DATA)


@pytest.mark.parametrize(
    ("asked", "inline", "shown", "sent"),
    [
        ("image/png", True, True, "image/png"),
        ("image/png", False, False, "image/png"),
        ("text/html", True, False, "application/octet-stream"),
        ("image/svg+xml", True, False, "application/octet-stream"),
        ("application/pdf", True, True, "application/pdf"),
    ],
)
async def test_a_download_has_a_name_and_a_type_that_runs_nothing(
    store: BlobStore, browser: httpx.AsyncClient, key: str, asked: str, inline: bool, shown: bool, sent: str
) -> None:
    await put(store, key, DATA, asked)
    url = store.presign_get(key, expires_s=60, filename="Grüße, du.png", content_type=asked, inline=inline)
    answer = await browser.get(url)
    assert answer.content == DATA
    assert answer.headers["Content-Type"] == sent
    kind = "inline" if shown else "attachment"
    expected = f"{kind}; filename=\"Gr__e, du.png\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe%2C%20du.png"
    assert answer.headers["Content-Disposition"] == expected


async def test_without_a_type_it_is_saved_and_never_shown(
    store: BlobStore, browser: httpx.AsyncClient, key: str
) -> None:
    await put(store, key, b"<script>alert(1)</script>", "text/html")
    answer = await browser.get(store.presign_get(key, expires_s=60, inline=True))
    assert answer.headers["Content-Disposition"] == "attachment"


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99", 206, DATA),
        ("bytes=0-99", 206, DATA),
        ("bytes=10-", 416, None),
    ],
)
async def test_ranges(
    store: BlobStore, browser: httpx.AsyncClient, key: str, asked: str, status: int, body: bytes | None
) -> None:
    await put(store, key, DATA)
    answer = await browser.get(store.presign_get(key, expires_s=60), headers={"Range": asked})
    assert answer.status_code == status
    if body is not None:
        assert answer.content == body
        start = DATA.index(body)
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(body) - 1}/10"
        assert answer.headers["Content-Length"] == str(len(body))


async def test_conditions(store: BlobStore, browser: httpx.AsyncClient, key: str) -> None:
    await put(store, key, DATA)
    url = store.presign_get(key, expires_s=60)
    etag = (await browser.get(url)).headers["ETag"]
    stat = await store.head(key)
    assert stat is not None
    assert etag == f'"{stat.etag}"'
    same = await browser.get(url, headers={"If-None-Match": etag})
    assert (same.status_code, same.content) == (304, b"")
    assert (await browser.get(url, headers={"If-None-Match": '"other"'})).status_code == 200
    assert (await browser.get(url, headers={"If-Match": '"other"'})).status_code == 412


async def test_a_url_for_nothing_is_not_found(store: BlobStore, browser: httpx.AsyncClient, key: str) -> None:
    # S3 says 403 where the signer may not list the bucket.
    assert (await browser.get(store.presign_get(key, expires_s=60))).status_code in (403, 404)
