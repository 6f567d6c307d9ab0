"""Passwords: the rules, hashing off the loop, and hashes that came from elsewhere."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from functools import cache

import anyio
import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from brolly.auth.state import state_of
from brolly.core.errors import AppError
from brolly.deps import Deps

SHORTEST, LONGEST = 8, 256

# OWASP's first choice for argon2id: 19 MiB, two passes. Four at once need 76 MiB.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_FIREBASE = re.compile(r"\$fbscrypt\$v=1,n=(\d{1,2}),r=(\d{1,2}),p=1,ss=([^$,]*),sk=([^$,]+)\$([^$]+)\$([^$]+)")
_MOST_WORK = 16


def check_rules(password: str) -> None:
    """Raise unless it has 8 to 256 characters: upper case, lower case, a digit and another sign among them."""
    missing = [
        words
        for words, holds in (
            (f"{SHORTEST} characters", len(password) >= SHORTEST),
            ("an upper-case letter", any(c.isupper() for c in password)),
            ("a lower-case letter", any(c.islower() for c in password)),
            ("a digit", any(c.isdigit() for c in password)),
            ("a sign that is neither letter nor digit", any(not c.isalnum() for c in password)),
        )
        if not holds
    ]
    if missing:
        raise AppError(
            "VALIDATION_WEAK_PASSWORD", f"The password lacks {', '.join(missing)}.", details={"missing": missing}
        )
    if len(password) > LONGEST:
        raise AppError("VALIDATION_WEAK_PASSWORD", f"The password is longer than {LONGEST} characters.")


def is_known_hash(stored: str) -> bool:
    """Whether a hash from elsewhere is of a kind, and of a cost, that can be checked here."""
    if stored.startswith("$argon2id$"):
        return _is_argon2(stored)
    if match := _BCRYPT.fullmatch(stored):
        return 4 <= int(match.group(1)) <= _MOST_WORK
    if match := _FIREBASE.fullmatch(stored):
        return 1 <= int(match.group(1)) <= _MOST_WORK and 1 <= int(match.group(2)) <= 16 and _is_base64(match)
    return False


def _is_argon2(stored: str) -> bool:
    match = re.fullmatch(r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$[^$]+\$[^$]+", stored)
    return match is not None and int(match.group(1)) <= 262_144 and int(match.group(2)) <= 10


def _is_base64(match: re.Match[str]) -> bool:
    try:
        for part in match.groups()[2:]:
            base64.b64decode(part, validate=True)
    except binascii.Error:
        return False
    return True


async def hash_password(deps: Deps, password: str) -> str:
    """An argon2id hash, made in a thread; only a few at once."""
    return await anyio.to_thread.run_sync(_hash, password, limiter=state_of(deps).hashing)


async def check_password(deps: Deps, stored: str | None, password: str) -> tuple[bool, bool]:
    """Whether it is the password, and whether its hash should be made anew. Without a hash it takes as long."""
    return await anyio.to_thread.run_sync(_check, stored, password, limiter=state_of(deps).hashing)


def _hash(password: str) -> str:
    return _HASHER.hash(unicodedata.normalize("NFKC", password))


@cache
def _nobodys() -> str:
    return _HASHER.hash("nobody's password")


def _check(stored: str | None, password: str) -> tuple[bool, bool]:
    if len(password) > LONGEST:
        password, stored = "", None
    if stored is None:
        _check_argon2(_nobodys(), password)
        return False, False
    if stored.startswith("$argon2"):
        return _check_argon2(stored, password), _HASHER.check_needs_rehash(stored)
    if stored.startswith("$fbscrypt$"):
        return _check_firebase(stored, password), True
    # The original cuts at 72 bytes without a word; so must the check.
    return bcrypt.checkpw(password.encode()[:72], stored.encode()), True


def _check_argon2(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, unicodedata.normalize("NFKC", password))
    except (Argon2Error, InvalidHashError):
        return False


def _check_firebase(stored: str, password: str) -> bool:
    """Firebase's scrypt: the derived key encrypts the project's signer key, and that is the hash."""
    match = _FIREBASE.fullmatch(stored)
    if match is None:
        return False
    cost, rounds = int(match.group(1)), int(match.group(2))
    separator, signer, salt, expected = (base64.b64decode(part) for part in match.groups()[2:])
    key = hashlib.scrypt(
        password.encode(), salt=salt + separator, n=2**cost, r=rounds, p=1, maxmem=256 * 2**cost * rounds, dklen=32
    )
    encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
    return hmac.compare_digest(encryptor.update(signer) + encryptor.finalize(), expected)
