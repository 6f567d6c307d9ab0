"""Unpacking a zip that a stranger made: everything is looked at before and bounded while it is written.

All of this blocks; ``start`` runs it in a thread.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHUNK = 256 * 1024
DEEPEST = 32
LONGEST_PATH = 512
LONGEST_SEGMENT = 200
HIGHEST_RATIO = 200
RATIO_FROM = 20 * 1_048_576
"""Below so many bytes nothing is a bomb, however well it was compressed."""
LONGEST_DIRECTORY = 32 * 1_048_576
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_JUNK = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$)")


class BadArchiveError(Exception):
    """The zip cannot be taken; the text says why and what to do, for whoever made it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may come out of a zip."""

    total_bytes: int
    files: int


def unpack(source: Path, target: Path, bounds: Bounds) -> list[str]:
    """Unpack into the empty folder; the paths written. Raises ``BadArchiveError``, then the folder is to be dropped."""
    try:
        with source.open("rb") as file:
            _check_directory(file)
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                entries = _entries(archive, source.stat().st_size, bounds)
                _write_all(archive, entries, target, bounds)
                return [name for name, _ in entries]
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, UnicodeError) as error:
        raise BadArchiveError(f"The file is not a whole zip ({error}). Zip the build folder's content again.") from None


def _check_directory(file: BinaryIO) -> None:
    """Refuse a directory that would fill the memory before a single entry is looked at."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END.size - 65_535)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("its directory is missing")
    length = _END.unpack_from(tail, at)[5]
    if length == 0xFFFFFFFF and start + at >= _LOCATOR64.size:
        file.seek(start + at - _LOCATOR64.size)
        magic, _, offset, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
        if magic != b"PK\x06\x07" or offset > size - _END64.size:
            raise zipfile.BadZipFile("its directory is missing")
        file.seek(offset)
        length = _END64.unpack(file.read(_END64.size))[8]
    if length > LONGEST_DIRECTORY:
        raise BadArchiveError("The zip lists far more files than a site has.")


Entries = list[tuple[str, zipfile.ZipInfo]]


def _entries(archive: zipfile.ZipFile, zip_bytes: int, bounds: Bounds) -> Entries:
    """The files, each checked by itself and all together."""
    found: Entries = []
    for info in archive.infolist():
        name = _checked_name(info)
        _check_kind(info, name)
        if not info.is_dir() and not _JUNK.search(name):
            found.append((name, info))
    if not found:
        raise BadArchiveError("The zip is empty. Zip the content of the build folder, such as dist.")
    if len(found) > bounds.files:
        raise BadArchiveError(f"The zip has {len(found)} files; {bounds.files} are the most.")
    if sum(info.compress_size for _, info in found) > zip_bytes:
        raise BadArchiveError("Entries of the zip overlap, as in a zip bomb.")
    total = sum(info.file_size for _, info in found)
    _check_total(total, zip_bytes, bounds)
    _check_paths([name for name, _ in found])
    return found


def _checked_name(info: zipfile.ZipInfo) -> str:
    # As it stands in the zip; what the library makes of it may look harmless.
    name = info.orig_filename
    shown = ascii(name)[:120]
    if "\\" in name:
        raise BadArchiveError(
            f"The entry {shown} has a backslash. Entries need forward slashes: make the zip with another program, "
            "or with brolly deploy FOLDER."
        )
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise BadArchiveError(f"The entry {shown} is absolute. Entries must be relative to the build folder.")
    parts = name.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadArchiveError(f"The entry {shown} leads out of its folder.")
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise BadArchiveError(f"The entry {shown} has a name with control characters.")
    if (
        len(parts) > DEEPEST
        or len(name.encode()) > LONGEST_PATH
        or any(len(p.encode()) > LONGEST_SEGMENT for p in parts)
    ):
        raise BadArchiveError(
            f"The entry {shown} is nested too deeply or has too long a name ({DEEPEST} folders, {LONGEST_PATH} bytes)."
        )
    return name


def _check_kind(info: zipfile.ZipInfo, name: str) -> None:
    shown = ascii(name)[:120]
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise BadArchiveError(f"The entry {shown} is a symbolic link. Zip the files themselves (zip without -y).")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadArchiveError(f"The entry {shown} is neither a file nor a folder.")
    if info.flag_bits & 0x1:
        raise BadArchiveError(f"The entry {shown} is encrypted. Make the zip without a password.")
    if info.compress_type not in _METHODS:
        raise BadArchiveError(f"The entry {shown} is compressed in a way other than deflate. Make a plain zip.")


def _check_total(total: int, zip_bytes: int, bounds: Bounds) -> None:
    if total > bounds.total_bytes:
        raise BadArchiveError(
            f"Unpacked, the zip has {total // 1_048_576} MB; {bounds.total_bytes // 1_048_576} MB are the most."
        )
    if total > RATIO_FROM and total > HIGHEST_RATIO * zip_bytes:
        raise BadArchiveError(f"The zip unpacks to more than {HIGHEST_RATIO} times its size, as a zip bomb does.")


def _check_paths(names: Sequence[str]) -> None:
    """No name twice, and none that is a file here and a folder there."""
    files = set(names)
    if len(files) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise BadArchiveError(f"The zip has the entry {ascii(twice)[:120]} twice.")
    for name in files:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in files:
                raise BadArchiveError(f"The zip has {ascii(parent)[:120]} as a file and as a folder.")
            parent = parent.rpartition("/")[0]


def _write_all(archive: zipfile.ZipFile, entries: Entries, target: Path, bounds: Bounds) -> None:
    left = bounds.total_bytes

    def count(read: int) -> None:
        nonlocal left
        left -= read
        if left < 0:
            raise BadArchiveError(f"The zip unpacks to more than {bounds.total_bytes // 1_048_576} MB.")

    made: set[Path] = set()
    for name, info in entries:
        path = target / name
        if path.parent not in made:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.add(path.parent)
        try:
            _write(archive, info, path, count)
        except RuntimeError as error:
            # What zipfile raises for what it cannot decrypt.
            raise BadArchiveError(f"The entry {ascii(name)[:120]} cannot be read ({error}).") from None


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, count: Callable[[int], None]) -> None:
    # Made anew, never through a link.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file, archive.open(info) as source:
        written = 0
        # The directory's word on the size is not trusted: what comes is counted.
        while chunk := source.read(CHUNK):
            written += len(chunk)
            count(len(chunk))
            if written > info.file_size:
                raise zipfile.BadZipFile(f"{path.name!a} is longer than the directory says")
            file.write(chunk)
