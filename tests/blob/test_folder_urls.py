"""The folder store's URLs over HTTP: what browsers, caches and attackers send that no S3 test can assume."""

from __future__ import annotations

import httpx
import pytest

from brolly.blob.folder import FolderStore
from brolly.blob.signing import Grant, UrlSigner
from brolly.core.errors import AppError
from tests.blob.test_conformance import put, text
from tests.blob.test_conformance_urls import DATA, send, upload_url


async def test_errors_have_the_shape_of_all_errors_and_any_page_can_read_them(
    folder: FolderStore, browser: httpx.AsyncClient, key: str
) -> None:
    upload = upload_url(folder, key)
    cases = [
        (await browser.get(upload.url), 403, "AUTH_FORBIDDEN"),
        (await send(browser, upload, DATA + b"x"), 413, "REQUEST_TOO_LARGE"),
        (await send(browser, upload, DATA[1:]), 400, "VALIDATION_INVALID_INPUT"),
        (await send(browser, upload, headers={"Content-Type": "text/html"}), 400, "VALIDATION_INVALID_INPUT"),
        (await send(browser, upload, headers={"Content-Encoding": "gzip"}), 400, "VALIDATION_INVALID_INPUT"),
        (await browser.get(folder.presign_get(key, expires_s=60)), 404, "RESOURCE_NOT_FOUND"),
    ]
    for answer, status, code in cases:
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_page_may_ask_before_it_sends(folder: FolderStore, browser: httpx.AsyncClient, key: str) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
    answer = await browser.options(upload_url(folder, key).url, headers=asked)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_what_is_shown_runs_nothing(folder: FolderStore, browser: httpx.AsyncClient, key: str) -> None:
    await put(folder, key, b"<script>alert(1)</script>", "text/html")
    answer = await browser.get(folder.presign_get(key, expires_s=60))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    pdf = await browser.get(folder.presign_get(key, expires_s=60, content_type="application/pdf", inline=True))
    assert "Content-Security-Policy" not in pdf.headers


async def test_head_answers_as_get_would(folder: FolderStore, browser: httpx.AsyncClient, key: str) -> None:
    await put(folder, key, DATA)
    answer = await browser.head(folder.presign_get(key, expires_s=60), headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"")
    assert answer.headers["Content-Length"] == "3"
    assert answer.headers["Content-Range"] == "bytes 2-4/10"


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "lines=1-2", "bytes=5-2", "bytes=-", "bytes=a-b", "bytes 0-1"])
async def test_ranges_that_are_none_are_passed_over(
    folder: FolderStore, browser: httpx.AsyncClient, key: str, asked: str
) -> None:
    await put(folder, key, DATA)
    answer = await browser.get(folder.presign_get(key, expires_s=60), headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0", f"bytes={'9' * 5000}-"])
async def test_a_range_beyond_the_end_names_the_size(
    folder: FolderStore, browser: httpx.AsyncClient, key: str, asked: str
) -> None:
    await put(folder, key, DATA)
    answer = await browser.get(folder.presign_get(key, expires_s=60), headers={"Range": asked})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */10")


async def test_a_download_goes_on_only_with_the_same_version(
    folder: FolderStore, browser: httpx.AsyncClient, key: str
) -> None:
    await put(folder, key, DATA)
    url = folder.presign_get(key, expires_s=60)
    first = await browser.get(url)
    for version, status in [
        (first.headers["ETag"], 206),
        (first.headers["Last-Modified"], 206),
        ('"other"', 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
        ("nonsense", 200),
    ]:
        answer = await browser.get(url, headers={"Range": "bytes=2-4", "If-Range": version})
        assert answer.status_code == status, version


async def test_dates_are_conditions_too(folder: FolderStore, browser: httpx.AsyncClient, key: str) -> None:
    await put(folder, key, DATA)
    url = folder.presign_get(key, expires_s=60)
    modified = (await browser.get(url)).headers["Last-Modified"]
    old = "Mon, 01 Jan 2024 00:00:00 GMT"
    for name, value, status in [
        ("If-Modified-Since", modified, 304),
        ("If-Modified-Since", old, 200),
        ("If-Modified-Since", "nonsense", 200),
        ("If-Unmodified-Since", modified, 200),
        ("If-Unmodified-Since", old, 412),
        ("If-None-Match", "*", 304),
        ("If-Match", "*", 200),
    ]:
        assert (await browser.get(url, headers={name: value})).status_code == status, (name, value)


async def test_a_client_that_goes_away_leaves_nothing(
    folder: FolderStore, browser: httpx.AsyncClient, key: str
) -> None:
    import anyio

    upload = upload_url(folder, key, 50_000_000)
    url = httpx.URL(upload.url)
    assert url.port is not None
    connection = await anyio.connect_tcp("127.0.0.1", url.port)
    head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 50000000\r\n"
    await connection.send(head.encode() + b"\r\n" + b"x" * 3_000_000)
    with anyio.fail_after(10):
        while not list((folder.root / ".new").iterdir()):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        await connection.aclose()
        while list((folder.root / ".new").iterdir()):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    assert await folder.head(key) is None
    assert (await send(browser, upload_url(folder, key))).is_success
    assert await text(folder, key) == DATA


def test_no_other_secret_method_or_order_makes_a_valid_url() -> None:
    signer = UrlSigner("x" * 32, "http://brolly.test/base/")
    grant = Grant("PUT", "app_x/abc", content_type="image/png", size=5, sha256=b"x" * 32)
    url, _ = signer.url(grant, 60)
    assert url.startswith("http://brolly.test/base/objects/app_x/abc?")
    query = url.partition("?")[2]
    assert signer.verify("PUT", "app_x/abc", query) == grant
    later = UrlSigner("x" * 32, "", now=lambda: 2e10)
    refused = [
        (signer, "GET", "app_x/abc", query),
        (signer, "PUT", "app_x/abd", query),
        (signer, "PUT", "../x", query),
        (signer, "PUT", "app_x/abc", query.replace("size=5", "size=6")),
        (signer, "PUT", "app_x/abc", query + "&size=6"),
        (signer, "PUT", "app_x/abc", query + "&other=6"),
        (signer, "PUT", "app_x/abc", query.replace("signature=", "signature=%00")),
        (signer, "PUT", "app_x/abc", query.replace("signature=", "signature=%C3%A4")),
        (signer, "PUT", "app_x/abc", query.replace("type=", "type=%FF")),
        (signer, "PUT", "app_x/abc", ""),
        (UrlSigner("y" * 32, ""), "PUT", "app_x/abc", query),
        (later, "PUT", "app_x/abc", query),
    ]
    for each, method, key, text_ in refused:
        with pytest.raises(AppError) as failed:
            each.verify(method, key, text_)
        assert failed.value.code == "AUTH_FORBIDDEN"
        assert ("expired" in failed.value.message) is (each is later)
