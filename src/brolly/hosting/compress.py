"""Contents as they are kept: as they are, then compressed in three ways, one behind the other. Blocks.

Done once per content when it is deployed, so that no request waits for it.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import brotli  # pyright: ignore[reportMissingTypeStubs]
from backports import zstd

ENCODINGS = ("br", "gzip", "zstd")
"""In the order in which they lie behind the bytes."""
SMALLEST = 256
"""Below so many bytes headers outweigh what compression saves."""
LARGEST = 16 * 1_048_576
_BROTLI, _GZIP, _ZSTD = 6, 6, 9
"""By measure, on packages' JavaScript: Brotli at 9 takes fourteen times as long for a hundredth of the size, at 11
forty times for a twelfth, Zstandard at 15 five times for a thirtieth: too long to wait for a deployment."""
_WORTH = 0.95


def _brotli(data: bytes, quality: int) -> bytes:
    return cast(bytes, brotli.compress(data, quality=quality))  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True, slots=True)
class Packed:
    """The bytes to store. ``sizes`` are those of the encodings that are worth it."""

    data: bytes
    size: int
    sizes: Mapping[str, int]


def pack(path: Path) -> Packed:
    """The file with what compresses it well."""
    data = path.read_bytes()
    made: dict[str, bytes] = {
        "br": _brotli(data, _BROTLI),
        # Without the time, which would make other bytes of the same contents.
        "gzip": gzip.compress(data, _GZIP, mtime=0),
        "zstd": bytes(zstd.compress(data, _ZSTD)),
    }
    kept = {name: part for name, part in made.items() if len(part) <= _WORTH * len(data)}
    whole = b"".join((data, *(kept[name] for name in ENCODINGS if name in kept)))
    return Packed(whole, len(data), {name: len(part) for name, part in kept.items()})


def is_worth_packing(size: int, compressible: bool) -> bool:
    """Whether to compress at all."""
    return compressible and SMALLEST <= size <= LARGEST


def digest(path: Path) -> bytes:
    """SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
