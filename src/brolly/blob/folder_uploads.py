"""Uploads in parts of the folder store: one file that grows, and a note of what it will become. All of it blocks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import uuid4

from brolly.blob.files import Footer, locked, publish, sync_folder, write_all
from brolly.blob.store import OpenUpload, Part, missing

_ID = re.compile(r"[0-9a-f]{32}")
_MOST_LISTED = 1000
_LEFT_OVER_AFTER = 3600


def etag_of(parts: Sequence[Part]) -> str:
    """The ETag of what the parts make, by S3's rule: made from theirs, so that the bytes need not be read again."""
    digest = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"


def create(uploads: Path, key: str, content_type: str) -> str:
    """Begin an upload."""
    upload_id = uuid4().hex
    note, new = _note(uploads, upload_id), uploads / f"{upload_id}.new"
    os.close(os.open(_data(uploads, upload_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with new.open("w") as file:
        json.dump({"key": key, "type": content_type, "started": datetime.now(UTC).isoformat()}, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(note)
    sync_folder(uploads)
    return upload_id


def write_part(uploads: Path, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:
    """Write the part to its place; on the disk when this returns."""
    with _opened(uploads, key, upload_id) as found:
        if found is None:
            raise missing(key)
        write_all(found[0], data, offset)
        os.fsync(found[0])
    return Part(number, hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data))


def complete(uploads: Path, root: Path, target: Path, key: str, upload_id: str, parts: Sequence[Part]) -> bool:
    """Make the upload the object; False when there is no such upload (any more)."""
    with _opened(uploads, key, upload_id) as found:
        if found is None:
            return False
        handle, content_type = found
        size = sum(part.size for part in parts)
        if os.fstat(handle).st_size < size:
            raise OSError(errno.EIO, "an upload's file is shorter than its parts")
        # What an earlier try or a part that was given up has left behind the end.
        os.ftruncate(handle, size)
        write_all(handle, Footer(content_type, etag_of(parts)).pack(), size)
        os.fsync(handle)
        publish(_data(uploads, upload_id), target, root)
        _note(uploads, upload_id).unlink(missing_ok=True)
        return True


def abort(uploads: Path, upload_id: str) -> None:
    """Drop the upload. The note goes first: without it the data is nobody's."""
    if _ID.fullmatch(upload_id):
        _note(uploads, upload_id).unlink(missing_ok=True)
        _data(uploads, upload_id).unlink(missing_ok=True)


def open_uploads(uploads: Path, prefix: str) -> list[OpenUpload]:
    """The uploads whose keys start so, oldest first."""
    os.stat(uploads)
    found: list[OpenUpload] = []
    for note in uploads.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            facts = json.loads(note.read_text("utf-8"))
            if facts["key"].startswith(prefix):
                found.append(OpenUpload(facts["key"], note.stem, datetime.fromisoformat(facts["started"])))
    return list(islice(sorted(found, key=lambda upload: upload.started), _MOST_LISTED))


def sweep(uploads: Path) -> None:
    """Remove what was left by a process that was killed while it began or ended an upload."""
    old = time.time() - _LEFT_OVER_AFTER
    for path in uploads.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.suffix != ".json" and path.stat().st_mtime < old and not path.with_suffix(".json").exists():
                path.unlink()


@contextmanager
def _opened(uploads: Path, key: str, upload_id: str) -> Generator[tuple[int, str] | None]:
    """The upload's locked file and content type, or None. Locked: no other process completes it meanwhile."""
    if not _ID.fullmatch(upload_id):
        yield None
        return
    os.stat(uploads)
    try:
        handle = locked(_data(uploads, upload_id), os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            facts = json.loads(_note(uploads, upload_id).read_text("utf-8"))
        except FileNotFoundError:
            facts = {"key": ""}
        yield (handle, facts["type"]) if facts["key"] == key else None
    finally:
        os.close(handle)


def _note(uploads: Path, upload_id: str) -> Path:
    return uploads / f"{upload_id}.json"


def _data(uploads: Path, upload_id: str) -> Path:
    return uploads / f"{upload_id}.data"
