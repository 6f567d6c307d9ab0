"""The folder store: what the disk holds when a process dies, the disk is full or gone, or somebody meddles."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brolly.blob import files
from brolly.blob.folder import FolderStore
from brolly.blob.signing import UrlSigner
from brolly.core.errors import AppError
from tests.blob.test_conformance import put, stream, text

MIB = 1024 * 1024
SIGNER = UrlSigner("x" * 32, "http://brolly.test")

# Writes an object for ever, and says when its first bytes are on their way to the disk.
WRITER = """
import asyncio, sys
from pathlib import Path
from brolly.blob.folder import FolderStore
from brolly.blob.signing import UrlSigner

async def forever():
    while True:
        yield b"x" * (1 << 20)
        if any(path.stat().st_size for path in Path(sys.argv[1], ".new").iterdir()):
            print("writing", flush=True)
            await asyncio.Event().wait()

async def main():
    store = FolderStore(Path(sys.argv[1]), UrlSigner("x" * 32, ""))
    await store.open()
    await store.write(sys.argv[2], forever(), content_type="text/plain")

asyncio.run(main())
"""


def path_of(store: FolderStore, key: str) -> Path:
    namespace, _, name = key.partition("/")
    return store.root / namespace / name[:2] / name


def unfinished(store: FolderStore) -> list[Path]:
    return list((store.root / ".new").iterdir())


async def test_a_process_that_is_killed_leaves_nothing_that_is_served(folder: FolderStore, key: str) -> None:
    await put(folder, key, b"old")
    writer = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", WRITER, str(folder.root), key], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        assert await text(folder, key) == b"old"
        other = FolderStore(folder.root, SIGNER)
        await other.open()
        assert len(unfinished(folder)) == 1, "a sweep of another process took what is being written"
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        if writer.stdout is not None:
            writer.stdout.close()
    assert await text(folder, key) == b"old"
    await other.open()
    assert unfinished(folder) == []


async def test_two_stores_over_one_folder_are_one(folder: FolderStore, key: str) -> None:
    other = FolderStore(folder.root, SIGNER)
    await other.open()
    await put(folder, key, b"one")
    assert await text(other, key) == b"one"
    upload = await folder.create_multipart(key, content_type="text/plain")
    part = await other.write_part(key, upload, 1, 0, b"two")
    await folder.complete_multipart(key, upload, [part])
    assert await text(other, key) == b"two"


async def test_readers_keep_the_version_that_they_opened(folder: FolderStore, key: str) -> None:
    await put(folder, key, b"a" * 3 * MIB)
    reading = folder.read(key)
    first = await anext(reading)
    await put(folder, key, b"b" * 5)
    await folder.delete([key])
    rest = b"".join([chunk async for chunk in reading])
    assert first + rest == b"a" * 3 * MIB


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_told_and_leaves_no_remains(
    folder: FolderStore, key: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    await put(folder, key, b"old")
    real = os.pwrite
    room = 2 * MIB

    def full(handle: int, data: bytes, offset: int) -> int:
        if offset >= room:
            raise OSError(code, os.strerror(code))
        return real(handle, data[: room - offset], offset)

    monkeypatch.setattr(files.os, "pwrite", full)
    with pytest.raises(AppError) as failed:
        await folder.write(key, stream(b"x" * 3 * MIB), content_type="text/plain")
    monkeypatch.undo()
    assert failed.value.code == "S3_ERROR"
    assert "full" in failed.value.message
    assert unfinished(folder) == []
    assert await text(folder, key) == b"old"


async def test_a_folder_that_is_gone_is_not_an_empty_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects", SIGNER)
    await store.open()
    await put(store, "app_x/abc")
    store.root.rename(tmp_path / "unmounted")

    async def listed() -> None:
        assert [each async for each in store.listing("")]

    calls = [
        lambda: store.head("app_x/abc"),
        lambda: text(store, "app_x/abc"),
        lambda: put(store, "app_x/abc"),
        lambda: store.copy("app_x/abc", "app_x/abd"),
        lambda: store.delete(["app_x/abc"]),
        lambda: store.delete_prefix("app_x/"),
        listed,
        store.namespaces,
        lambda: store.create_multipart("app_x/abc", content_type="a/b"),
        lambda: store.write_part("app_x/abc", "0" * 32, 1, 0, b"x"),
        store.open_multiparts,
        store.check,
    ]
    for call in calls:
        with pytest.raises(AppError) as failed:
            await call()
        assert failed.value.code == "S3_ERROR"
    assert not store.root.exists()
    # It comes back, and all is there.
    (tmp_path / "unmounted").rename(store.root)
    assert await text(store, "app_x/abc") == b"hello"


async def test_what_the_store_did_not_write_is_not_served(folder: FolderStore, key: str, tmp_path: Path) -> None:
    await put(folder, key)
    path = path_of(folder, key)
    whole = path.read_bytes()
    for damaged in (b"", b"short", whole[:-1], whole[:-20] + b"x" + whole[-19:], b"x" * 5000):
        path.write_bytes(damaged)
        with pytest.raises(AppError) as failed:
            await folder.head(key)
        assert failed.value.code == "S3_ERROR"
    secret = tmp_path / "secret"
    secret.write_bytes(whole)
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(AppError) as failed:
        await text(folder, key)
    assert failed.value.code == "S3_ERROR"


async def test_objects_are_for_the_owner_alone(folder: FolderStore, key: str) -> None:
    await put(folder, key)
    for path in (folder.root, path_of(folder, key), path_of(folder, key).parent, folder.root / ".new"):
        assert path.stat().st_mode & 0o077 == 0


async def test_a_write_that_is_cancelled_leaves_nothing(folder: FolderStore, key: str) -> None:
    import anyio

    async def stalled() -> AsyncIterator[bytes]:
        yield b"x" * 2 * MIB
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await folder.write(key, stalled(), content_type="text/plain")
    assert scope.cancelled_caught
    assert unfinished(folder) == []
    assert await folder.head(key) is None


async def test_without_hard_links_a_copy_is_made_of_bytes(
    folder: FolderStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    await put(folder, key, b"old", "image/png")
    monkeypatch.setattr(os, "link", refuse)
    copied = await folder.copy(key, f"{key}.copy")
    assert (copied.size, copied.content_type) == (3, "image/png")
    assert await text(folder, f"{key}.copy") == b"old"


async def test_what_a_killed_upload_in_parts_left_is_swept_when_it_is_old(folder: FolderStore, key: str) -> None:
    upload = await folder.create_multipart(key, content_type="text/plain")
    lost = folder.root / ".uploads" / f"{'0' * 32}.data"
    lost.write_bytes(b"x")
    kept = folder.root / ".uploads" / f"{upload}.data"
    await folder.tidy()
    assert lost.exists()
    for path in (lost, kept):
        os.utime(path, (0, 0))
    await folder.tidy()
    assert not lost.exists()
    assert kept.exists()
    await folder.abort_multipart(key, upload)
