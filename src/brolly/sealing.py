"""Encryption of what must be read again: signing keys, secrets of second factors, settings of functions."""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from brolly.core.tokens import derive
from brolly.deps import Deps
from brolly.registry import App

_NONCE = 12


def _cipher(deps: Deps, app: App | str) -> AESGCM:
    owner = app if isinstance(app, str) else app.id
    return AESGCM(bytes.fromhex(derive(deps.secret, f"auth-sealing:{owner}")))


def seal(deps: Deps, app: App | str, name: str, data: bytes) -> bytes:
    """Encrypt (AES-256-GCM); what is sealed under one name, or for one app (or account), does not open under
    another.
    """
    nonce = secrets.token_bytes(_NONCE)
    return nonce + _cipher(deps, app).encrypt(nonce, data, name.encode())


def unseal(deps: Deps, app: App | str, name: str, sealed: bytes) -> bytes:
    """Decrypt what ``seal`` made under that name; raises when it was changed."""
    return _cipher(deps, app).decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())


def keyed_hash(deps: Deps, app: App, purpose: str, text: str) -> bytes:
    """A hash that cannot be searched without the installation secret: six digits alone would soon be found."""
    key = derive(deps.secret, f"auth-{purpose}:{app.id}")
    return hmac.new(key.encode(), text.encode(), sha256).digest()
