"""The store in a bucket of any S3 service. boto3 blocks, so every call runs in a thread; signing needs no call."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore[reportMissingTypeStubs]

from brolly.blob.delivery import delivered
from brolly.blob.s3_client import CALLS, GONE, code_of, translated
from brolly.blob.store import (
    CHUNK,
    KEY,
    NAMESPACE,
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
_PART = 8 * 1024 * 1024
_MOST_PARTS = 10_000
_READ_TRIES = 3


class S3Store:
    """A ``BlobStore`` in one bucket. ``signing`` is the client whose URLs browsers reach."""

    min_part_size = 5 * 1024 * 1024
    longest_copy = 5 * 1024**3
    """What the service copies in one call."""

    def __init__(self, client: Any, signing: Any, bucket: str) -> None:
        self._client, self._signing, self._bucket = client, signing, bucket
        self._limiter = anyio.CapacityLimiter(CALLS)

    async def close(self) -> None:
        """See ``BlobStore``."""
        self._client.close()
        self._signing.close()

    def presign_put(
        self, key: str, *, content_type: str, size: int, expires_s: int, sha256: bytes | None = None
    ) -> PresignedUpload:
        """See ``BlobStore``. Type and length are signed headers, so the service itself refuses others."""
        params = {
            "Bucket": self._bucket,
            "Key": check_key(key),
            "ContentType": content_type,
            "ContentLength": size,
        }
        headers = {"Content-Type": content_type}
        if sha256 is not None:
            digest = base64.b64encode(sha256).decode()
            params["ChecksumSHA256"] = headers["x-amz-checksum-sha256"] = digest
        expires_at = datetime.now(UTC) + timedelta(seconds=expires_s)
        url = self._signing.generate_presigned_url("put_object", Params=params, ExpiresIn=expires_s)
        return PresignedUpload(url, "PUT", headers, expires_at)

    def presign_get(
        self, key: str, *, expires_s: int, filename: str = "", content_type: str = "", inline: bool = False
    ) -> str:
        """See ``BlobStore``."""
        kind, disposition = delivered(filename, content_type, inline=inline)
        params = {"Bucket": self._bucket, "Key": check_key(key), "ResponseContentDisposition": disposition}
        if kind:
            params["ResponseContentType"] = kind
        return self._signing.generate_presigned_url("get_object", Params=params, ExpiresIn=expires_s)

    async def head(self, key: str) -> Stat | None:
        """See ``BlobStore``."""
        check_key(key)

        def ask() -> Stat | None:
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                # Without a body the service cannot say whether key or bucket is missing.
                if code_of(error) in GONE:
                    return None
                raise
            return _stat(key, found)

        found = await self._call(key, ask)
        if found is None:
            await self.check()
        return found

    async def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """See ``BlobStore``. A connection that breaks is taken up where it broke, if it is still the same version."""
        stat = await self.head(key)
        if stat is None:
            raise missing(key)
        end = stat.size if length is None else min(stat.size, start + length)
        tries = _READ_TRIES
        while start < end:
            tries -= 1
            try:
                async with aclosing(self._chunks(stat, start, end)) as chunks:
                    async for chunk in chunks:
                        start += len(chunk)
                        yield chunk
            except (BotoCoreError, OSError) as error:
                if not tries:
                    raise unavailable("a download broke off") from error
                log.info("object store: %s; reading on", error)

    async def _chunks(self, stat: Stat, start: int, end: int) -> AsyncGenerator[bytes]:
        span = f"bytes={start}-{end - 1}"
        answer = await self._call(
            stat.key,
            lambda: self._client.get_object(Bucket=self._bucket, Key=stat.key, Range=span, IfMatch=f'"{stat.etag}"'),
        )
        body = answer["Body"]
        try:
            while chunk := await to_thread.run_sync(body.read, CHUNK, limiter=self._limiter):
                yield chunk
        finally:
            body.close()

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
        """See ``BlobStore``. Short streams go in one call, longer ones in parts."""
        check_key(key)
        async with aclosing(_in_parts(data, size, limit, sha256)) as parts:
            first = await anext(parts)
            second = await anext(parts, None)
            if second is not None:
                return await self._write_parts(key, content_type, [first, second], parts)
        place = {"Bucket": self._bucket, "Key": key}
        await self._call(key, lambda: self._client.put_object(**place, Body=first, ContentType=content_type))
        return await self._known(key)

    async def _write_parts(self, key: str, content_type: str, begun: list[bytes], rest: AsyncIterator[bytes]) -> Stat:
        upload_id = await self.create_multipart(key, content_type=content_type)
        sent: list[Part] = []
        try:
            while begun:
                data = begun.pop(0)
                sent.append(await self.write_part(key, upload_id, len(sent) + 1, len(sent) * _PART, data))
                if not begun and (more := await anext(rest, None)) is not None:
                    begun.append(more)
            return await self.complete_multipart(key, upload_id, sent)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.abort_multipart(key, upload_id)
            raise

    async def copy(self, source: str, target: str) -> Stat:
        """See ``BlobStore``."""
        check_key(target)
        stat = await self.head(source)
        if stat is None:
            raise missing(source)
        origin = {"Bucket": self._bucket, "Key": source}
        place = {"Bucket": self._bucket, "Key": target}
        if source != target and stat.size <= self.longest_copy:
            await self._call(source, lambda: self._client.copy_object(**place, CopySource=origin))
        elif source != target:
            await self._copy_in_parts(stat, origin, target)
        return await self._known(target)

    async def _copy_in_parts(self, stat: Stat, origin: dict[str, str], target: str) -> None:
        upload_id = await self.create_multipart(target, content_type=stat.content_type)
        parts: list[Part] = []
        try:
            for number, start in enumerate(range(0, stat.size, self.longest_copy), 1):
                end = min(stat.size, start + self.longest_copy)
                answer = await self._call(
                    stat.key,
                    lambda number=number, start=start, end=end: self._client.upload_part_copy(
                        Bucket=self._bucket,
                        Key=target,
                        UploadId=upload_id,
                        PartNumber=number,
                        CopySource=origin,
                        CopySourceRange=f"bytes={start}-{end - 1}",
                    ),
                )
                parts.append(Part(number, answer["CopyPartResult"]["ETag"].strip('"'), end - start))
            await self.complete_multipart(target, upload_id, parts)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.abort_multipart(target, upload_id)
            raise

    async def delete(self, keys: Sequence[str]) -> None:
        """See ``BlobStore``."""
        for key in keys:
            check_key(key)
        for at in range(0, len(keys), 1000):
            wanted = {"Objects": [{"Key": key} for key in keys[at : at + 1000]], "Quiet": True}
            answer = await self._call(
                keys[at], lambda wanted=wanted: self._client.delete_objects(Bucket=self._bucket, Delete=wanted)
            )
            failed = [each for each in answer.get("Errors", []) if each.get("Code") not in GONE]
            if failed:
                raise unavailable(f"it did not delete {len(failed)} objects: {failed[0].get('Code')}")

    async def delete_prefix(self, prefix: str) -> int:
        """See ``BlobStore``."""
        count, batch = 0, list[str]()
        async for each in self.listing(prefix):
            batch.append(each.key)
            if len(batch) == 1000:
                await self.delete(batch)
                count, batch = count + len(batch), []
        await self.delete(batch)
        while uploads := await self.open_multiparts(prefix):
            for upload in uploads:
                await self.abort_multipart(upload.key, upload.upload_id)
        return count + len(batch)

    async def listing(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        """See ``BlobStore``."""
        more = True
        while more:
            wanted = {"Bucket": self._bucket, "Prefix": prefix, "StartAfter": after, "MaxKeys": 1000}
            page = await self._call(prefix, partial(self._client.list_objects_v2, **wanted))
            found = page.get("Contents", [])
            for each in found:
                # What else lies in the bucket is not ours to touch.
                if KEY.fullmatch(each["Key"]):
                    yield Listed(each["Key"], each["Size"], each["LastModified"])
            more = bool(page.get("IsTruncated") and found)
            after = found[-1]["Key"] if found else after

    async def namespaces(self) -> list[str]:
        """See ``BlobStore``."""
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = await self._call(
                "",
                lambda token=token: self._client.list_objects_v2(Bucket=self._bucket, Delimiter="/", **token),
            )
            names += [each["Prefix"].rstrip("/") for each in page.get("CommonPrefixes", [])]
            if not page.get("IsTruncated"):
                return [name for name in names if NAMESPACE.fullmatch(name)]
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def create_multipart(self, key: str, *, content_type: str) -> str:
        """See ``BlobStore``."""
        place = {"Bucket": self._bucket, "Key": check_key(key)}
        answer = await self._call(key, lambda: self._client.create_multipart_upload(**place, ContentType=content_type))
        return answer["UploadId"]

    async def write_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:
        """See ``BlobStore``."""
        place = {"Bucket": self._bucket, "Key": check_key(key), "UploadId": upload_id}
        answer = await self._call(key, lambda: self._client.upload_part(**place, PartNumber=number, Body=data))
        return Part(number, answer["ETag"].strip('"'), len(data))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stat:
        """See ``BlobStore``."""
        listed = {"Parts": [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]}
        place = {"Bucket": self._bucket, "Key": check_key(key), "UploadId": upload_id}

        def finish() -> bool:
            try:
                self._client.complete_multipart_upload(**place, MultipartUpload=listed)
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise
                return False
            return True

        done = await self._call(key, finish)
        stat = await self.head(key)
        size = sum(part.size for part in parts)
        # Without an open upload it may have been completed before, and the answer was lost.
        if stat is None or (not done and (stat.size != size or not stat.etag.endswith(f"-{len(parts)}"))):
            raise missing(key)
        return stat

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """See ``BlobStore``."""
        place = {"Bucket": self._bucket, "Key": check_key(key), "UploadId": upload_id}

        def drop() -> None:
            try:
                self._client.abort_multipart_upload(**place)
            except ClientError as error:
                if code_of(error) not in GONE:
                    raise

        await self._call(key, drop)

    async def open_multiparts(self, prefix: str = "") -> list[OpenUpload]:
        """See ``BlobStore``."""

        def ask() -> Any:
            try:
                return self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix, MaxUploads=1000)
            except ClientError as error:
                # Some services cannot list them; there the bucket's own rule must end stale ones.
                if code_of(error) != "NotImplemented":
                    raise
                return {}

        page = await self._call(prefix, ask)
        found = [OpenUpload(e["Key"], e["UploadId"], e["Initiated"]) for e in page.get("Uploads", [])]
        return sorted((e for e in found if KEY.fullmatch(e.key)), key=lambda e: e.started)

    async def tidy(self) -> None:
        """The service itself never keeps what was not sent whole."""

    async def check(self) -> None:
        """See ``BlobStore``."""

        def ask() -> None:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if code_of(error) in GONE:
                    raise unavailable(f"there is no bucket {self._bucket}") from None
                raise

        # Who waits no longer must be let go, also by a service that hangs.
        with translated(""):
            await to_thread.run_sync(ask, limiter=self._limiter, abandon_on_cancel=True)

    async def _known(self, key: str) -> Stat:
        stat = await self.head(key)
        if stat is None:
            raise missing(key)
        return stat

    async def _call(self, key: str, work: Callable[[], T]) -> T:
        with translated(key):
            return await to_thread.run_sync(work, limiter=self._limiter)


def _stat(key: str, found: Any) -> Stat:
    content_type = found.get("ContentType", "application/octet-stream")
    return Stat(key, found["ContentLength"], found["ETag"].strip('"'), content_type, found["LastModified"])


async def _in_parts(
    data: AsyncIterator[bytes], size: int | None, limit: int | None, sha256: bytes | None
) -> AsyncGenerator[bytes]:
    """The stream in parts of one size, at least one; the last one, shorter, only when all is as declared."""
    most = min(n for n in (size, limit, _PART * _MOST_PARTS) if n is not None)
    buffer, came, digest = bytearray(), 0, hashlib.sha256()

    async def taken(length: int) -> bytes:
        part = bytes(buffer[:length])
        del buffer[:length]
        if sha256 is not None:
            await to_thread.run_sync(digest.update, part)
        return part

    async for piece in data:
        came += len(piece)
        if came > most:
            raise too_large(most)
        buffer += piece
        while len(buffer) > _PART:
            yield await taken(_PART)
    last = await taken(len(buffer))
    if size is not None and came < size:
        raise incomplete(came, size)
    if sha256 is not None and digest.digest() != sha256:
        raise wrong_digest()
    yield last
