"""Pictures in other sizes and formats: made once when somebody asks, kept in the store beside the original."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
from anyio.abc import Process

from brolly.core.errors import AppError
from brolly.storage.access import File, Visit
from brolly.storage.names import essence

log = logging.getLogger("brolly.storage")

Fit = Literal["cover", "contain", "fill"]
Format = Literal["jpeg", "png", "webp", "avif"]

LONGEST_SIDE = 4096
MOST_PIXELS = 50_000_000
LARGEST_SOURCE = 32 * 1024 * 1024
LARGEST_RESULT = 32 * 1024 * 1024
MEMORY = 1024 * 1024 * 1024
SECONDS = 25
AT_ONCE = 2
MOST_KEPT = 64
"""Variants of one picture; the oldest makes room, so that asking for every size fills no disk."""

_PROGRAM = Path(__file__).with_name("image_process.py")
_SOURCES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif")
_ORIGINAL = "Leave width, height, format and quality out of manage_storage download_url to get the file as it is."
_WHY = {
    "pixels": f"It has more than {MOST_PIXELS // 1_000_000} million pixels.",
    "memory": "It needs more memory than a picture may.",
    "format": "It is damaged, or not a picture of a known kind.",
    "time": "It takes too long.",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for; zero and empty leave it as it is."""

    width: int = 0
    height: int = 0
    fit: Fit = "cover"
    format: Format | Literal[""] = ""
    quality: int = 80


@dataclass(frozen=True, slots=True)
class Variant:
    """A picture that was made of a file."""

    key: str
    filename: str
    content_type: str


class _Room:
    """How many pictures this process works on."""

    limiter: anyio.CapacityLimiter | None = None


def _room() -> anyio.CapacityLimiter:
    if _Room.limiter is None:
        _Room.limiter = anyio.CapacityLimiter(AT_ONCE)
    return _Room.limiter


async def variant(at: Visit, file: File, change: Change) -> Variant:
    """The picture as asked for, made if it is not there yet. Raises for what is no picture, or too large a one."""
    kind = essence(file.content_type)
    if kind not in _SOURCES:
        raise _refused(f"Files of type {kind} are not pictures that can be changed.")
    if file.size_bytes > LARGEST_SOURCE:
        raise _refused(f"Pictures of more than {LARGEST_SOURCE // 1024 // 1024} MB are not changed.")
    made = change.format or {"image/jpeg": "jpeg", "image/webp": "webp", "image/avif": "avif"}.get(kind, "png")
    original = file.key(at.app)
    # With the ETag, so that a replaced original is not answered with pictures of the old one.
    wanted = f"{file.etag}:{change.width}:{change.height}:{change.fit}:{made}:{change.quality}"
    key = f"{original}.img-{hashlib.sha256(wanted.encode()).hexdigest()[:32]}"
    found = Variant(key, f"{Path(file.filename).stem}.{made}", f"image/{made}")
    if await at.deps.blob.head(key) is not None:
        return found
    try:
        with anyio.fail_after(SECONDS):
            await _room().acquire()
    except TimeoutError:
        raise AppError(
            "QUOTA_RATE_LIMIT",
            "Too many pictures are being changed at the moment.",
            remediation="Ask again in a few seconds, or use manage_storage download_url without width.",
            retry_after=5,
        ) from None
    try:
        # Somebody else may have had it made meanwhile.
        if await at.deps.blob.head(key) is not None:
            return found
        data = await _made(at.deps.blob.read(original), change, made)
        await _make_room(at, original)
        await at.deps.blob.write(key, _once(data), content_type=found.content_type, size=len(data))
    finally:
        _room().release()
    return found


async def _made(source: AsyncIterator[bytes], change: Change, made: str) -> bytes:
    """Run the program over the bytes; what it writes."""
    arguments = (change.width, change.height, change.fit, made, change.quality, MOST_PIXELS, MEMORY)
    command = [sys.executable, "-I", str(_PROGRAM), *(str(each) for each in arguments)]
    process = await anyio.open_process(command, env={}, cwd="/")
    result, said = bytearray(), bytearray()
    try:
        with anyio.move_on_after(SECONDS) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_feed, process, source)
                group.start_soon(_collect, process.stderr, said)
                await _collect(process.stdout, result)
            await process.wait()
        if scope.cancelled_caught:
            raise _refused(_WHY["time"])
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()
    if process.returncode == 0 and len(result) <= LARGEST_RESULT:
        return bytes(result)
    word = said.decode("ascii", "replace").strip()
    # Ended by the system: by the limit of processor time, or by a decoder's fault.
    reason = word if word in _WHY else "time" if (process.returncode or 0) < 0 else "memory"
    log.info("a picture was not changed: %s, %s", process.returncode, word[-200:])
    raise _refused(_WHY[reason])


async def _feed(process: Process, source: AsyncIterator[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101
    try:
        async for chunk in source:
            await process.stdin.send(chunk)
        await process.stdin.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        # It ended without reading all; its status says why.
        return


async def _collect(stream: AsyncIterator[bytes] | None, into: bytearray) -> None:
    assert stream is not None  # noqa: S101
    async for chunk in stream:
        if len(into) <= LARGEST_RESULT:
            into += chunk


async def _make_room(at: Visit, original: str) -> None:
    kept = [each async for each in at.deps.blob.listing(f"{original}.img-")]
    kept.sort(key=lambda each: each.modified)
    surplus = len(kept) - MOST_KEPT + 1
    if surplus > 0:
        await at.deps.blob.delete([each.key for each in kept[:surplus]])


def _refused(why: str) -> AppError:
    return AppError("VALIDATION_INVALID_INPUT", f"The picture is not changed. {why}", remediation=_ORIGINAL)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
