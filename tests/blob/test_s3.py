"""The S3 store: a service that is down, refuses or breaks off, a bucket that others use too, and the settings."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router

from brolly.blob.opening import open_blob
from brolly.blob.s3 import S3Store
from brolly.core.errors import AppError
from brolly.core.settings import Settings, load_settings
from tests.blob.s3_server import METHODS, settings_of, store_of
from tests.blob.serving import free_port, serving
from tests.blob.test_conformance import put, stream, text

MIB = 1024 * 1024
GIVEN = {"s3_bucket": "files", "s3_access_key": "k", "s3_secret_key": "s"}


async def every_call(store: S3Store, key: str, code: str = "S3_ERROR") -> list[str]:
    """What each call says of a service that cannot be used."""

    async def listed() -> None:
        assert [each async for each in store.listing(key)]

    calls = [
        lambda: store.head(key),
        lambda: text(store, key),
        lambda: put(store, key),
        lambda: store.copy(key, f"{key}.copy"),
        lambda: store.delete([key]),
        lambda: store.delete_prefix(key),
        listed,
        store.namespaces,
        lambda: store.create_multipart(key, content_type="a/b"),
        lambda: store.write_part(key, "0" * 32, 1, 0, b"x"),
        store.open_multiparts,
        store.check,
    ]
    said: list[str] = []
    for call in calls:
        with pytest.raises(AppError) as failed:
            await call()
        assert failed.value.code == code
        said.append(failed.value.message)
    return said


async def test_a_service_that_is_down_is_told_by_every_call(key: str) -> None:
    store = store_of(settings_of(f"http://127.0.0.1:{free_port()}"))
    assert all("does not answer" in message for message in await every_call(store, key))
    # Signing needs no service.
    assert store.presign_get(key, expires_s=60)
    await store.close()


async def test_a_wrong_key_and_a_missing_bucket_are_told_as_such(s3_settings: Settings, key: str) -> None:
    wrong = store_of(settings_of(s3_settings.s3_endpoint, s3_secret_key="wrong"))
    assert all("refuses" in message for message in await every_call(wrong, key))
    none = store_of(settings_of(s3_settings.s3_endpoint, s3_bucket="no-such-bucket-here"))
    with pytest.raises(AppError) as failed:
        await none.head(key)
    assert failed.value.code == "S3_ERROR"
    assert "no-such-bucket-here" in failed.value.message
    await wrong.close()
    await none.close()


async def test_a_service_that_fails_now_and_then_is_asked_again(key: str) -> None:
    asked: list[str] = []

    async def flaky(request: Request) -> Response:
        asked.append(request.method)
        headers = {"ETag": '"e"', "Content-Length": "0", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        return Response(status_code=503 if len(asked) == 1 else 200, headers=headers)

    async with serving(Router([Route("/{path:path}", flaky, methods=METHODS)])) as endpoint:
        store = store_of(settings_of(endpoint))
        assert await store.head(key) is not None
        await store.close()
    assert asked == ["HEAD", "HEAD"]


@pytest.mark.parametrize("heals", [True, False])
async def test_a_download_that_breaks_off_is_taken_up_where_it_broke(key: str, heals: bool) -> None:
    data = bytes(range(256)) * 16_000
    asked: list[str] = []

    async def breaking(request: Request) -> Response:
        headers = {"ETag": '"e"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(data))})
        asked.append(request.headers["Range"])
        assert request.headers["If-Match"] == '"e"'
        start = int(asked[-1].removeprefix("bytes=").partition("-")[0])

        async def body() -> AsyncIterator[bytes]:
            yield data[start:] if heals and len(asked) > 1 else data[start : start + MIB]

        length = {"Content-Length": str(len(data) - start)}
        return StreamingResponse(body(), 206, headers={**headers, **length})

    async with serving(Router([Route("/{path:path}", breaking, methods=METHODS)])) as endpoint:
        store = store_of(settings_of(endpoint))
        if heals:
            assert await text(store, key) == data
            assert asked == [f"bytes=0-{len(data) - 1}", f"bytes={MIB}-{len(data) - 1}"]
        else:
            with pytest.raises(AppError) as failed:
                await text(store, key)
            assert failed.value.code == "S3_ERROR"
            assert len(asked) == 3
        await store.close()


async def test_what_else_lies_in_the_bucket_is_left_alone(s3: S3Store, namespace: str) -> None:
    client = s3._client  # pyright: ignore[reportPrivateUsage]
    strange = [f"{namespace}/deep/er/x", f"{namespace}/UPPER", "README.md", "Backup/2026/x"]
    place = {"Bucket": s3._bucket}  # pyright: ignore[reportPrivateUsage]
    for name in strange:
        await to_thread.run_sync(lambda name=name: client.put_object(**place, Key=name, Body=b"not ours"))
    await put(s3, f"{namespace}/abc")
    assert [each.key async for each in s3.listing("")].count(f"{namespace}/abc") == 1
    assert not set(strange) & {each.key async for each in s3.listing("")}
    assert "Backup" not in await s3.namespaces()
    assert await s3.delete_prefix(f"{namespace}/") == 1
    for name in strange:
        assert (await to_thread.run_sync(lambda name=name: client.head_object(**place, Key=name)))["ContentLength"] == 8


async def test_what_is_too_large_for_one_copy_is_copied_in_parts(s3_settings: Settings, key: str) -> None:
    store = store_of(s3_settings)
    store.longest_copy = 5 * MIB
    data = hashlib.sha256(b"x").digest() * 200_000
    await store.write(key, stream(data), content_type="video/mp4")
    copied = await store.copy(key, f"{key}.copy")
    assert (copied.size, copied.content_type) == (len(data), "video/mp4")
    assert await text(store, f"{key}.copy") == data
    await store.close()


@pytest.mark.parametrize(
    ("more", "host", "path"),
    [
        ({"s3_endpoint": "https://s3.example.com"}, "s3.example.com", "/files/app_x/abc"),
        ({"s3_endpoint": "https://s3.example.com", "s3_force_path_style": False}, "files.s3.example.com", "/app_x/abc"),
        ({}, "files.s3.amazonaws.com", "/app_x/abc"),
        ({"s3_region": "eu-central-1"}, "files.s3.eu-central-1.amazonaws.com", "/app_x/abc"),
        (
            {"s3_endpoint": "http://minio:9000", "s3_public_endpoint": "https://files.example.com"},
            "files.example.com",
            "/files/app_x/abc",
        ),
    ],
)
async def test_urls_name_the_bucket_as_the_settings_say(more: dict[str, str], host: str, path: str) -> None:
    settings = load_settings({}, home=Path("/nonexistent"), **{**GIVEN, **more})
    async with open_blob(settings, "x" * 32) as store:
        url = urlsplit(store.presign_get("app_x/abc", expires_s=60))
    assert (url.hostname, url.path) == (host, path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"s3_bucket": ""},
        {"s3_bucket": "", "s3_access_key": "", "s3_secret_key": "", "s3_endpoint": "https://s3.example.com"},
        {"s3_bucket": "Not/A/Bucket"},
        {"s3_secret_key": ""},
        {"s3_access_key": ""},
        {"s3_endpoint": "s3.example.com"},
        {"s3_endpoint": "https://user:password@s3.example.com"},
        {"s3_endpoint": "https://s3.example.com/path"},
        {"s3_public_endpoint": "ftp://s3.example.com"},
    ],
)
def test_settings_that_cannot_work_are_refused_without_telling_a_secret(wrong: dict[str, str]) -> None:
    environ = {f"BROLLY_{name.upper()}": value for name, value in {**GIVEN, **wrong}.items()}
    with pytest.raises(AppError) as failed:
        load_settings({"BROLLY_HOME": "/nonexistent", **environ})
    assert failed.value.code == "CONFIG_INVALID"
    assert "password" not in failed.value.message


def test_the_secret_is_not_in_the_record_and_boto3_not_in_a_process_without_bucket() -> None:
    settings = load_settings({}, home=Path("/nonexistent"), **{**GIVEN, "s3_secret_key": "very-secret"})
    assert "very-secret" not in repr(settings)
    code = "import sys, brolly.cli, brolly.serve; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
