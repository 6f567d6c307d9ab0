"""Files that arrive in pieces, over any number of connections and replicas; what has arrived is in the store."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid4

import anyio

from brolly.blob.store import Part, too_large
from brolly.core.errors import AppError
from brolly.storage import schedule
from brolly.storage.access import File, Visit, files_of, find_own, missing
from brolly.storage.removal import remove
from brolly.storage.reservations import GRACE_SECONDS, Wish, reserve, settle

log = logging.getLogger("brolly.storage")

KEPT_SECONDS = 24 * 3600
"""For how long an upload waits for its next piece."""
MOST_PARTS = 9_000
"""S3 takes 10,000."""
PART = 8 * 1024 * 1024


class ChecksumError(Exception):
    """A piece did not have the checksum that was sent with it; nothing of it is kept."""


class DisconnectedError(Exception):
    """The sender went away in the middle of a piece. Raised by the stream; what came is kept."""


@dataclass(frozen=True, slots=True)
class Upload:
    """How far a file has come."""

    file: File
    upload_id: str
    parts: tuple[Part, ...]
    received: int
    tail: int
    metadata: str
    claim: UUID | None = None

    @property
    def done(self) -> bool:
        """Whether every byte has arrived."""
        return self.received == self.file.size_bytes

    @property
    def in_parts(self) -> int:
        """The bytes that are in parts."""
        return self.received - self.tail


@dataclass(slots=True)
class Checksum:
    """What a piece must add up to."""

    algorithm: str
    expected: bytes
    digest: hashlib._Hash = field(init=False)  # pyright: ignore[reportPrivateUsage]

    def __post_init__(self) -> None:
        self.digest = hashlib.new(self.algorithm, usedforsecurity=False)


async def begin(at: Visit, wanted: Wish, metadata: str) -> Upload:
    """Reserve the file and open an upload for it in the store."""
    file, _ = await reserve(at, wanted, KEPT_SECONDS)
    try:
        upload_id = await at.deps.blob.create_multipart(file.key(at.app), content_type=file.content_type)
        async with files_of(at.deps, at.app) as connection:
            await connection.execute(
                "insert into storage.uploads (object_id, upload_id, metadata) values ($1, $2, $3)",
                file.id,
                upload_id,
                metadata,
            )
    except AppError:
        await remove(at.deps, at.app, [file.id])
        raise
    return Upload(file, upload_id, (), 0, 0, metadata)


async def find_upload(at: Visit, object_id: str) -> Upload:
    """The upload, for whoever began it; one whose bytes are all there is finished if that was interrupted."""
    file = await find_own(at, object_id)
    async with files_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            "select upload_id, parts, received, tail, metadata from storage.uploads where object_id = $1", file.id
        )
    if row is None:
        raise missing(object_id)
    parts = tuple(Part(n, etag, size) for n, (etag, size) in enumerate(json.loads(row["parts"]), 1))
    found = Upload(file, row["upload_id"], parts, row["received"], row["tail"], row["metadata"])
    if found.done and file.status == "pending":
        return await finish(at, found)
    return found


async def append(
    at: Visit, upload: Upload, offset: int, data: AsyncIterator[bytes], checksum: Checksum | None = None
) -> Upload:
    """Add a piece that begins at ``offset``; the upload as it is then, finished if that was the last piece.

    What came is kept when the sender goes away, unless a checksum was to be verified. Raises
    ``RESOURCE_CONFLICT`` when the upload is elsewhere, or somebody else has gone on with it meanwhile.
    """
    upload = await _claim(at, upload, offset)
    piece = _Piece(at, upload, checksum)
    try:
        await piece.take(data)
    except DisconnectedError:
        if checksum is None:
            with anyio.CancelScope(shield=True):
                await piece.keep()
        raise
    if checksum is not None and checksum.digest.digest() != checksum.expected:
        raise ChecksumError
    upload = await piece.keep()
    return await finish(at, upload) if upload.done else upload


class _Piece:
    """The bytes of one request on their way into parts."""

    def __init__(self, at: Visit, upload: Upload, checksum: Checksum | None) -> None:
        self._at, self._upload, self._checksum = at, upload, checksum
        self._key = upload.file.key(at.app)
        spread = -(-upload.file.size_bytes // MOST_PARTS)
        self._least = max(at.deps.blob.min_part_size, spread)
        self._part = max(PART, spread)
        self._buffer = bytearray()
        self._came = upload.received

    async def take(self, data: AsyncIterator[bytes]) -> None:
        """Read the piece; every full part goes to the store at once."""
        if self._upload.tail:
            async for chunk in self._at.deps.blob.read(f"{self._key}.tail", 0, self._upload.tail):
                self._buffer += chunk
        async for chunk in data:
            self._came += len(chunk)
            if self._came > self._upload.file.size_bytes:
                raise too_large(self._upload.file.size_bytes)
            if self._checksum is not None:
                self._checksum.digest.update(chunk)
            self._buffer += chunk
            while len(self._buffer) >= self._part:
                await self._write(self._part)
                if self._checksum is None:
                    await self._commit()

    async def keep(self) -> Upload:
        """Store what is left of the piece, and say so."""
        rest = len(self._buffer)
        last = self._upload.in_parts + rest == self._upload.file.size_bytes
        if rest and (last or rest >= self._least):
            await self._write(rest)
        elif rest:
            await self._at.deps.blob.write(
                f"{self._key}.tail", _once(bytes(self._buffer)), content_type="application/octet-stream"
            )
            self._upload = replace(self._upload, received=self._upload.in_parts + rest, tail=rest)
        await self._commit()
        return self._upload

    async def _write(self, length: int) -> None:
        was = self._upload
        part = await self._at.deps.blob.write_part(
            self._key, was.upload_id, len(was.parts) + 1, was.in_parts, bytes(self._buffer[:length])
        )
        del self._buffer[:length]
        self._upload = replace(was, parts=(*was.parts, part), received=was.in_parts + length, tail=0)

    async def _commit(self) -> None:
        now = self._upload
        known = json.dumps([[part.etag, part.size] for part in now.parts])
        async with files_of(self._at.deps, self._at.app) as connection:
            # Every piece gives the upload its time again.
            row = await connection.fetchrow(
                "with kept as (update storage.uploads set parts = $3, received = $4, tail = $5 "
                "where object_id = $1 and claim = $2 returning object_id) "
                "update storage.objects o set expires_at = now() + make_interval(secs => $6) from kept "
                "where o.id = kept.object_id and o.status = 'pending' returning o.expires_at",
                now.file.id,
                now.claim,
                known,
                now.received,
                now.tail,
                float(KEPT_SECONDS),
            )
        if row is None:
            raise elsewhere("Another request has gone on with this upload.")
        self._upload = replace(now, file=_expiring(now.file, row["expires_at"]))


async def finish(at: Visit, upload: Upload) -> Upload:
    """Make the file of its parts. Bears repetition."""
    key = upload.file.key(at.app)
    stat = await at.deps.blob.complete_multipart(key, upload.upload_id, upload.parts)
    ready = await settle(at.deps, at.app, upload.file, stat)
    if ready is None:
        raise missing(str(upload.file.id))
    await at.deps.blob.delete([f"{key}.tail"])
    async with files_of(at.deps, at.app) as connection:
        # The row stays, for who asks again; the parts have no more use.
        await connection.execute("update storage.uploads set parts = '[]' where object_id = $1", ready.id)
    return replace(upload, file=ready)


async def drop(at: Visit, object_id: str) -> None:
    """Give an upload up, with all that has arrived."""
    upload = await find_upload(at, object_id)
    await remove(at.deps, at.app, [upload.file.id])


async def _claim(at: Visit, upload: Upload, offset: int) -> Upload:
    claim = uuid4()
    if upload.file.status != "pending" or offset != upload.received:
        raise elsewhere(f"The upload is at byte {upload.received}, not at {offset}.", upload.received)
    await schedule.due(at.deps, at.app.id, KEPT_SECONDS + GRACE_SECONDS)
    async with files_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            "update storage.uploads set claim = $2 where object_id = $1 and received = $3 returning claim",
            upload.file.id,
            claim,
            offset,
        )
    if row is None:
        raise elsewhere("Another request has gone on with this upload.")
    return replace(upload, claim=claim)


def elsewhere(why: str, offset: int | None = None) -> AppError:
    """The answer to a piece that does not go on where the upload is."""
    return AppError(
        "RESOURCE_CONFLICT",
        why,
        remediation="Ask with HEAD for Upload-Offset and go on from there; butterbase_docs explains it under storage.",
        details=None if offset is None else {"offset": offset},
    )


def _expiring(file: File, moment: datetime) -> File:
    return replace(file, expires_at=moment)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
