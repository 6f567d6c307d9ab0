"""Names and texts as they stand in SQL, where no value can be bound."""

from __future__ import annotations

import hashlib

MAX_BYTES = 63
"""Postgres cuts longer names without an error."""


def quote(name: str) -> str:
    """The name as an identifier; refuses what Postgres would cut or cannot hold."""
    if not name or "\0" in name or len(name.encode()) > MAX_BYTES:
        raise ValueError(f"not a name of 1 to {MAX_BYTES} bytes: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as a string literal (``standard_conforming_strings`` is on, as is the default)."""
    if "\0" in text:
        raise ValueError("a text in SQL cannot hold a zero byte")
    return "'" + text.replace("'", "''") + "'"


def derived_name(base: str, suffix: str) -> str:
    """``base`` + ``suffix``; where that is too long, part of the base gives way to a digest of all of it.

    So two long bases never meet in one name, and the suffix still says what it is.
    """
    name = base + suffix
    if len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(base.encode()).hexdigest()[:10]
    kept = base.encode()[: MAX_BYTES - len(suffix.encode()) - len(digest) - 1].decode(errors="ignore")
    return f"{kept}_{digest}{suffix}"
