"""The store in a folder: what comes with Brolly. Several processes, on machines that share the folder, may use it.

``{root}/{namespace}/{first two signs of the name}/{name}`` is an object, ``.new/`` holds what is being written,
``.uploads/`` what arrives in parts. Objects are replaced whole, never changed: readers keep what they opened.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import anyio
from anyio import to_thread

from brolly.blob import folder_uploads
from brolly.blob.delivery import delivered
from brolly.blob.files import NewFile, existing, publish, read_facts, sweep
from brolly.blob.signing import Grant, UrlSigner
from brolly.blob.store import (
    CHUNK,
    Listed,
    OpenUpload,
    Part,
    PresignedUpload,
    Stat,
    check_key,
    incomplete,
    missing,
    too_large,
    unavailable,
    wrong_digest,
)

log = logging.getLogger("brolly.blob")
T = TypeVar("T")
_THREADS = 16
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in _DISK_FULL
        log.error("object store: %s", error)
        raise unavailable("its disk is full" if full else error.strerror or "the folder cannot be used") from error


@dataclass(frozen=True, slots=True)
class Content:
    """An open object: it stays as it is even when it is replaced or deleted meanwhile."""

    handle: int
    stat: Stat
    store: FolderStore

    async def chunks(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from ``start`` up to ``end``."""
        while start < end:
            chunk = await self.store.in_thread(partial(os.pread, self.handle, min(CHUNK, end - start), start))
            if not chunk:
                raise unavailable("a file is shorter than it was")
            start += len(chunk)
            yield chunk


class FolderStore:
    """A ``BlobStore`` under one folder. ``signer`` makes and checks its URLs."""

    min_part_size = 64 * 1024

    def __init__(self, root: Path, signer: UrlSigner) -> None:
        self.root, self.signer = root, signer
        self._new = root / ".new"
        self._uploads = root / ".uploads"
        # Its own threads: a slow disk must not hold up what else waits for one.
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def open(self) -> None:
        """Make the folders, and remove what processes that were killed have left half written."""

        def prepare() -> None:
            for path in (self.root, self._new, self._uploads):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()

        await self.in_thread(prepare)

    async def close(self) -> None:
        """Nothing is held open."""

    def presign_put(
        self, key: str, *, content_type: str, size: int, expires_s: int, sha256: bytes | None = None
    ) -> PresignedUpload:
        """See ``BlobStore``."""
        grant = Grant("PUT", check_key(key), content_type=content_type, size=size, sha256=sha256)
        url, expires = self.signer.url(grant, expires_s)
        return PresignedUpload(url, "PUT", {"Content-Type": content_type}, datetime.fromtimestamp(expires, UTC))

    def presign_get(
        self, key: str, *, expires_s: int, filename: str = "", content_type: str = "", inline: bool = False
    ) -> str:
        """See ``BlobStore``."""
        kind, disposition = delivered(filename, content_type, inline=inline)
        grant = Grant("GET", check_key(key), content_type=kind, disposition=disposition)
        return self.signer.url(grant, expires_s)[0]

    async def head(self, key: str) -> Stat | None:
        """See ``BlobStore``."""
        path = self._path(key)
        return await self.in_thread(lambda: self._facts(path, key))

    async def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """See ``BlobStore``."""
        async with self.opened(key) as content:
            end = content.stat.size if length is None else min(content.stat.size, start + length)
            async for chunk in content.chunks(start, end):
                yield chunk

    @asynccontextmanager
    async def opened(self, key: str) -> AsyncGenerator[Content]:
        """The object as it is now, facts and bytes of one version; raises ``RESOURCE_NOT_FOUND``."""
        path = self._path(key)
        handle = await self.in_thread(lambda: self._open(path, key))
        try:
            yield Content(handle, await self.in_thread(lambda: read_facts(handle, key)), self)
        finally:
            os.close(handle)

    async def write(
        self,
        key: str,
        data: AsyncIterator[bytes],
        *,
        content_type: str,
        size: int | None = None,
        limit: int | None = None,
        sha256: bytes | None = None,
    ) -> Stat:
        """See ``BlobStore``."""
        target = self._path(key)
        most = min((n for n in (size, limit) if n is not None), default=None)
        new = await self.in_thread(lambda: NewFile(self._new, sha256=sha256 is not None))
        try:
            async with aclosing(_in_chunks(data, most)) as chunks:
                await _overlapped(chunks, lambda chunk: self.in_thread(partial(new.write, chunk)))
            if size is not None and new.size < size:
                raise incomplete(new.size, size)
            if sha256 is not None and new.digest() != sha256:
                raise wrong_digest()
            return await self.in_thread(lambda: new.publish(target, self.root, key, content_type))
        finally:
            with anyio.CancelScope(shield=True):
                await self.in_thread(new.discard)

    async def copy(self, source: str, target: str) -> Stat:
        """See ``BlobStore``. Objects never change, so a second name for the same file is a copy."""
        old, path = self._path(source), self._path(target)

        def link() -> Stat | None:
            new = self._new / f"{uuid4().hex}.new"
            try:
                os.link(old, new, follow_symlinks=False)
                publish(new, path, self.root)
            finally:
                # Renaming one name of a file onto another of the same file leaves both.
                new.unlink(missing_ok=True)
            return self._facts(path, target)

        try:
            linked = await to_thread.run_sync(link, limiter=self._limiter)
        except FileNotFoundError:
            if await self.head(source) is None:
                raise missing(source) from None
            linked = None
        except OSError as error:
            log.info("object store: no hard links (%s), copying", error)
            linked = None
        if linked is not None:
            return linked
        facts = await self.head(source)
        if facts is None:
            raise missing(source)
        return await self.write(target, self.read(source), content_type=facts.content_type, size=facts.size)

    async def delete(self, keys: Sequence[str]) -> None:
        """See ``BlobStore``."""
        paths = [self._path(key) for key in keys]

        def remove() -> None:
            self._must_exist()
            for path in paths:
                path.unlink(missing_ok=True)

        await self.in_thread(remove)

    async def delete_prefix(self, prefix: str) -> int:
        """See ``BlobStore``."""
        count = 0
        for _, shard in await self.in_thread(lambda: self._shards(prefix, "")):
            paths = [shard / name for name in await self.in_thread(partial(self._names, shard, prefix, ""))]
            await self.in_thread(partial(_remove, paths))
            count += len(paths)
        for upload in await self.open_multiparts(prefix):
            await self.abort_multipart(upload.key, upload.upload_id)
        if prefix.endswith("/"):
            with contextlib.suppress(OSError):
                await to_thread.run_sync((self.root / prefix.rstrip("/")).rmdir, limiter=self._limiter)
        return count

    async def listing(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        """See ``BlobStore``."""
        for namespace, shard in await self.in_thread(lambda: self._shards(prefix, after)):

            def read_shard(namespace: str = namespace, shard: Path = shard) -> list[Listed]:
                facts = [self._facts(shard / name, f"{namespace}/{name}") for name in self._names(shard, prefix, after)]
                return [Listed(f.key, f.size, f.modified) for f in facts if f is not None]

            for found in await self.in_thread(read_shard):
                yield found

    async def namespaces(self) -> list[str]:
        """See ``BlobStore``."""
        return await self.in_thread(self._namespaces)

    async def create_multipart(self, key: str, *, content_type: str) -> str:
        """See ``BlobStore``."""
        check_key(key)
        return await self.in_thread(lambda: folder_uploads.create(self._uploads, key, content_type))

    async def write_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:
        """See ``BlobStore``."""
        return await self.in_thread(
            lambda: folder_uploads.write_part(self._uploads, key, upload_id, number, offset, data)
        )

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stat:
        """See ``BlobStore``."""
        path = self._path(key)
        etag = folder_uploads.etag_of(parts)
        done = await self.in_thread(
            lambda: folder_uploads.complete(self._uploads, self.root, path, key, upload_id, parts)
        )
        facts = await self.head(key)
        # Without an open upload it may have been completed before, and the answer was lost.
        if facts is None or (not done and facts.etag != etag):
            raise missing(key)
        return facts

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """See ``BlobStore``."""
        check_key(key)
        await self.in_thread(lambda: folder_uploads.abort(self._uploads, upload_id))

    async def open_multiparts(self, prefix: str = "") -> list[OpenUpload]:
        """See ``BlobStore``."""
        return await self.in_thread(lambda: folder_uploads.open_uploads(self._uploads, prefix))

    async def tidy(self) -> None:
        """See ``BlobStore``."""
        await self.in_thread(self._sweep)

    async def check(self) -> None:
        """See ``BlobStore``."""

        def probe() -> None:
            self._must_exist()
            new = NewFile(self._new)
            try:
                new.write(b"check")
            finally:
                new.discard()

        # Who waits no longer must be let go, also by a disk that hangs.
        with _translated():
            await to_thread.run_sync(probe, limiter=self._limiter, abandon_on_cancel=True)

    def _path(self, key: str) -> Path:
        namespace, _, name = check_key(key).partition("/")
        return self.root / namespace / name[:2] / name

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run what blocks on the disk; its failures leave as ``S3_ERROR``."""
        with _translated():
            return await to_thread.run_sync(work, limiter=self._limiter)

    def _sweep(self) -> None:
        sweep(self._new)
        folder_uploads.sweep(self._uploads)

    def _must_exist(self) -> None:
        # A disk that is not mounted must not look like a store without objects.
        os.stat(self._new)

    def _open(self, path: Path, key: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            self._must_exist()
            raise missing(key) from None

    def _facts(self, path: Path, key: str) -> Stat | None:
        with existing(path) as handle:
            if handle is None:
                self._must_exist()
                return None
            return read_facts(handle, key)

    def _namespaces(self) -> list[str]:
        self._must_exist()
        names = [entry.name for entry in os.scandir(self.root) if not entry.name.startswith(".") and entry.is_dir()]
        return sorted(names, key=lambda name: name + "/")

    def _shards(self, prefix: str, after: str) -> list[tuple[str, Path]]:
        """The folders that may hold keys with the prefix after ``after``, in the order of their keys."""
        found: list[tuple[str, Path]] = []
        only, slash, start_of_name = prefix.partition("/")
        if slash:
            # An object's or an app's: nothing else needs a look.
            self._must_exist()
        for namespace in [only] if slash else self._namespaces():
            known = [start_of_name[:2]] if len(start_of_name) >= 2 else sorted(_names_in(self.root / namespace))
            for name in known:
                start = f"{namespace}/{name}"
                if (start.startswith(prefix) or prefix.startswith(start)) and start >= after[: len(start)]:
                    found.append((namespace, self.root / namespace / name))
        return found

    def _names(self, shard: Path, prefix: str, after: str) -> list[str]:
        start = f"{shard.parent.name}/"
        keys = (start + name for name in sorted(_names_in(shard)))
        return [key.removeprefix(start) for key in keys if key.startswith(prefix) and key > after]


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        with contextlib.suppress(OSError):
            paths[0].parent.rmdir()


async def _overlapped(chunks: AsyncGenerator[bytearray], write: Callable[[bytearray], Awaitable[None]]) -> None:
    """Write each chunk, hashing included, while the next is coming in; so at most two are held."""
    chunk = await anext(chunks, None)
    while chunk is not None:
        coming: bytearray | None = None
        errors: list[Exception] = []

        async def attempt(chunk: bytearray = chunk, errors: list[Exception] = errors) -> None:
            try:
                await write(chunk)
            except Exception as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(attempt)
            try:
                coming = await anext(chunks, None)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        chunk = coming


async def _in_chunks(data: AsyncIterator[bytes], most: int | None) -> AsyncGenerator[bytearray]:
    """The stream in pieces worth a trip to a thread; raises past ``most`` bytes."""
    buffer, seen = bytearray(), 0
    async for piece in data:
        seen += len(piece)
        if most is not None and seen > most:
            raise too_large(most)
        buffer += piece
        if len(buffer) >= CHUNK:
            yield buffer
            buffer = bytearray()
    if buffer:
        yield buffer
