"""What an object store does. ``folder.FolderStore`` and ``s3.S3Store`` do it alike; one test suite holds both.

A key is ``{namespace}/{name}``, made by us and never by a user: the namespace is the app's id, the name starts with
an object's UUID (``app_x/0b1f…``). What is derived from an object gets the same name and a dot
(``app_x/0b1f….thumb``), so that ``delete_prefix("app_x/0b1f…")`` removes all of it.

Failures leave as ``AppError``: ``S3_ERROR`` (503) when the store is down, full or refuses us, and then the same call
may be repeated: every method does the same when done twice. What was not written whole is never visible.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from brolly.core.errors import AppError

KEY = re.compile(r"[a-z0-9][a-z0-9_-]{1,63}/[a-z0-9][a-z0-9_-]{2,99}(\.[a-z0-9_-]{1,60})?")
NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]{1,63}")
CHUNK = 1024 * 1024
"""Bytes that are held in memory at once per transfer."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What the store knows of an object. ``etag`` has no quotes; it changes whenever the bytes do."""

    key: str
    size: int
    etag: str
    content_type: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing, which knows no content type."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class PresignedUpload:
    """A URL to send an object's bytes to, once or again until it expires.

    ``headers`` must be sent exactly so; HTTP clients add ``Content-Length``, which must be the declared size.
    """

    url: str
    method: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload that has arrived; ``complete_multipart`` wants them back."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    started: datetime


class BlobStore(Protocol):
    """An object store. Every method bears repetition."""

    min_part_size: int
    """Fewest bytes of every part of a multipart upload but the last."""

    def presign_put(
        self, key: str, *, content_type: str, size: int, expires_s: int, sha256: bytes | None = None
    ) -> PresignedUpload:
        """A URL for one PUT of exactly ``size`` bytes of exactly ``content_type``: the store refuses anything else.

        With ``sha256`` it also refuses bytes of another digest. Signed on this machine, without a call to the store.
        Until it expires, the same PUT may be repeated and replaces the object, as with any S3.
        """
        ...

    def presign_get(
        self, key: str, *, expires_s: int, filename: str = "", content_type: str = "", inline: bool = False
    ) -> str:
        """A URL to GET the object from (ranges and conditions work), saved as ``filename``.

        ``content_type`` overrides the stored one. ``inline`` asks for showing instead of saving, and is granted only
        to types that cannot run script (images but SVG, sound, video, PDF, plain text); see ``delivery``.
        """
        ...

    async def head(self, key: str) -> Stat | None:
        """The object's facts, or None when there is no such object."""
        ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes in chunks of at most ``CHUNK``; raises ``RESOURCE_NOT_FOUND`` at the first step.

        Close the iterator (``contextlib.aclosing``) when leaving it early.
        """
        ...

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
        """Store a stream, replacing what was there, all at once or not at all; memory does not grow with it.

        Raises ``REQUEST_TOO_LARGE`` past ``limit`` or ``size``, ``VALIDATION_INVALID_INPUT`` when fewer bytes than
        ``size`` came or when they have another digest. What ``data`` raises goes on to the caller.
        """
        ...

    async def copy(self, source: str, target: str) -> Stat:
        """Copy inside the store, with the content type; raises ``RESOURCE_NOT_FOUND``."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects; those that are missing count as removed."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Remove every object whose key starts so (``app_x/`` is an app's all) and its open uploads; how many."""
        ...

    def listing(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        """The objects whose keys start so and come after that key, in the order of their keys, read page by page."""
        ...

    async def namespaces(self) -> list[str]:
        """Every namespace that holds an object, for finding what belongs to no app."""
        ...

    async def create_multipart(self, key: str, *, content_type: str) -> str:
        """Begin an object that arrives in parts, over any number of processes; its upload id."""
        ...

    async def write_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:
        """Store part ``number`` (from 1), which begins at byte ``offset``. The same number again replaces it.

        Raises ``RESOURCE_NOT_FOUND`` when the upload is gone.
        """
        ...

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stat:
        """Make the parts the object, all at once. Repeated after success, it answers the object."""
        ...

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; one that is gone counts as dropped."""
        ...

    async def open_multiparts(self, prefix: str = "") -> list[OpenUpload]:
        """Uploads neither completed nor aborted, oldest first, at most 1,000: for the sweep."""
        ...

    async def tidy(self) -> None:
        """Remove what processes that were killed have left half written; cheap, for the sweep."""
        ...

    async def check(self) -> None:
        """Raise ``S3_ERROR`` when the store cannot be used."""
        ...

    async def close(self) -> None:
        """Let go of connections; the store is not used afterwards."""
        ...


def check_key(key: str) -> str:
    """The key, or ValueError: a key of another form is a mistake of ours, never of a user."""
    if not KEY.fullmatch(key):
        raise ValueError(f"not a key of the object store: {key!r}")
    return key


def missing(key: str) -> AppError:
    """What reading an object that is not there raises."""
    return AppError("RESOURCE_NOT_FOUND", "The store holds no bytes of this object.", details={"key": key})


def unavailable(why: str) -> AppError:
    """What every method raises when the store cannot be used at the moment."""
    return AppError("S3_ERROR", f"The object store cannot be used at the moment: {why}.", retry_after=5)


def too_large(limit: int) -> AppError:
    """What sending more than was declared or is allowed raises."""
    return AppError(
        "REQUEST_TOO_LARGE",
        f"More than the {limit} bytes that were declared or are allowed.",
        details={"limit_bytes": limit},
    )


def incomplete(came: int, size: int) -> AppError:
    """What sending less than was declared raises."""
    return AppError(
        "VALIDATION_INVALID_INPUT",
        f"{came} bytes came of the {size} that were declared.",
        remediation="Send all bytes of the file; butterbase_docs explains files under storage.",
        details={"size_bytes": size, "received_bytes": came},
    )


def wrong_digest() -> AppError:
    """What bytes of another checksum than was declared raise."""
    return AppError(
        "VALIDATION_INVALID_INPUT",
        "The bytes do not have the SHA-256 that was declared.",
        remediation="Send the file again, it was damaged on its way; butterbase_docs explains files under storage.",
    )
