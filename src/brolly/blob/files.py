"""How the folder store keeps an object on disk: one file, visible only when it is whole and on the disk.

An object's file is its bytes, then a footer: JSON with content type and ETag, and 16 bytes that say how long it is.
Facts and bytes thus arrive in one rename, and the file still opens in what reads its format from the front.

All of this blocks; ``folder`` calls it in threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from brolly.blob.store import Stat

_MAGIC = b"BrollyO1"
_TAIL = struct.Struct(">8sII")
_LONGEST_FOOTER = 4096
_TRIES = 5


class BrokenFileError(OSError):
    """A file in the folder that this store did not write, or that the disk has damaged."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What stands behind the bytes."""

    content_type: str
    etag: str

    def pack(self) -> bytes:
        """The footer as bytes."""
        text = json.dumps({"type": self.content_type, "etag": self.etag}).encode()
        return text + _TAIL.pack(_MAGIC, len(text), zlib.crc32(text))


def read_facts(handle: int, key: str) -> Stat:
    """The facts of an open object file."""
    status = os.fstat(handle)
    end = status.st_size - _TAIL.size
    tail = os.pread(handle, _TAIL.size, max(end, 0))
    if end < 0 or len(tail) < _TAIL.size:
        raise BrokenFileError(f"{key} has no footer")
    magic, length, check = _TAIL.unpack(tail)
    text = os.pread(handle, length, max(end - length, 0)) if length <= _LONGEST_FOOTER else b""
    if magic != _MAGIC or zlib.crc32(text) != check:
        raise BrokenFileError(f"{key} has no valid footer")
    facts = json.loads(text)
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return Stat(key, end - length, facts["etag"], facts["type"], modified)


def sync_folder(path: Path) -> None:
    """Bring the folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path, root: Path) -> None:
    """The folder and those above it, up to ``root``, which must exist: a disk that is gone is not made anew."""
    if path.is_dir():
        return
    if path.parent != root:
        make_folder(path.parent, root)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_folder(path.parent)


def publish(new: Path, target: Path, root: Path) -> None:
    """Give the finished file its name, replacing what had it; on the disk when this returns."""
    for last in (False, False, True):
        make_folder(target.parent, root)
        try:
            new.rename(target)
            break
        except FileNotFoundError:
            # Another process may just have removed the folder, which was empty.
            if last or not new.exists():
                raise
    sync_folder(target.parent)


def locked(path: Path, flags: int) -> int:
    """Open and lock the file; nobody else had it, or has removed it meanwhile."""
    for _ in range(_TRIES):
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise FileNotFoundError(errno.ENOENT, "the file is removed whenever it is made", str(path))


class NewFile:
    """An object being written, under a name that nothing reads. ``publish`` or ``discard`` ends it.

    It is locked while it is open, which tells a sweep of any process that its writer lives.
    """

    def __init__(self, folder: Path, *, sha256: bool = False) -> None:
        self.path = folder / f"{uuid4().hex}.new"
        self.size = 0
        self._handle = locked(self.path, os.O_RDWR | os.O_CREAT)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256() if sha256 else None

    def write(self, chunk: bytes | bytearray) -> None:
        """Append to the bytes."""
        write_all(self._handle, chunk, self.size)
        self.size += len(chunk)
        self._md5.update(chunk)
        if self._sha256 is not None:
            self._sha256.update(chunk)

    def digest(self) -> bytes:
        """SHA-256 of the bytes, if it was asked for."""
        return self._sha256.digest() if self._sha256 is not None else b""

    def publish(self, target: Path, root: Path, key: str, content_type: str) -> Stat:
        """Make it the object."""
        write_all(self._handle, Footer(content_type, self._md5.hexdigest()).pack(), self.size)
        os.fsync(self._handle)
        publish(self.path, target, root)
        return read_facts(self._handle, key)

    def discard(self) -> None:
        """Close it, and remove it if it was not published."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


def write_all(handle: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of it; the system may take less at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def existing(path: Path) -> Generator[int | None]:
    """The open file, or None if there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def sweep(folder: Path) -> int:
    """Remove the unfinished files whose writers are gone, be it here or on another machine; how many."""
    count = 0
    for path in folder.glob("*.new"):
        with contextlib.suppress(OSError), existing(path) as handle:
            if handle is not None:
                # Refused with BlockingIOError while the writer, of any process, holds it.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                count += 1
    return count
