"""Secrets: service keys, and passwords derived from the one secret of an installation."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string

KEY_PREFIX = "bb_sk_"
_APP_ALPHABET = string.digits + string.ascii_lowercase


def new_service_key() -> str:
    """A fresh service key: ``bb_sk_`` and 40 hex digits (160 random bits)."""
    return KEY_PREFIX + secrets.token_hex(20)


def is_service_key(token: str) -> bool:
    """Whether the text has the form of a service key."""
    rest = token.removeprefix(KEY_PREFIX)
    return token.startswith(KEY_PREFIX) and len(rest) == 40 and all(c in "0123456789abcdef" for c in rest)


def hash_key(key: str) -> bytes:
    """SHA-256 of a key: 32 bytes, the only form in which a key is stored.

    A plain hash is enough here: unlike a password, a key has 160 random bits.
    """
    return hashlib.sha256(key.encode()).digest()


def key_display_prefix(key: str) -> str:
    """The first 12 characters, by which people recognise a key."""
    return key[:12]


def derive(secret: str, purpose: str) -> str:
    """64 hex digits that only the holder of ``secret`` can compute, different for each purpose.

    Database logins get their passwords this way, so that none is stored anywhere
    and every replica with the same secret knows them.
    """
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def owner_key(secret: str) -> str:
    """The owner's first service key. Derived, so that replicas over one database agree on it."""
    return KEY_PREFIX + derive(secret, "owner-key")[:40]


def new_secret() -> str:
    """A new installation secret: 64 hex digits."""
    return secrets.token_hex(32)


def new_app_id() -> str:
    """``app_`` and 12 characters of ``[0-9a-z]``."""
    return "app_" + "".join(secrets.choice(_APP_ALPHABET) for _ in range(12))
