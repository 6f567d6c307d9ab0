"""Codes that change with the time (RFC 6238), for second factors."""

from __future__ import annotations

import hmac
import struct
from hashlib import sha1

STEP_SECONDS = 30
_DRIFT = 1


def totp(secret: bytes, step: int) -> str:
    """The six digits of that step of time (RFC 4226, SHA-1, as every authenticator has it)."""
    digest = hmac.new(secret, struct.pack(">Q", step), sha1).digest()
    start = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[start : start + 4])[0] & 0x7FFFFFFF) % 10**6:06}"


def matching_step(secret: bytes, code: str, now: float) -> int | None:
    """The step whose code it is, of the present one and its neighbours."""
    present = int(now) // STEP_SECONDS
    steps = range(present - _DRIFT, present + _DRIFT + 1)
    return next((s for s in steps if hmac.compare_digest(totp(secret, s).encode(), code.encode())), None)
