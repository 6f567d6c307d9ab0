"""The keys of an app's access tokens: made on first use, renewed with overlap, published as a key set."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from jwt.algorithms import RSAAlgorithm

from brolly.auth.access import users_of
from brolly.auth.state import state_of
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.databases import APP_ID
from brolly.registry import App
from brolly.sealing import seal, unseal

ISSUER = "butterbase:app:"
ALGORITHM = "RS256"
KEY_BITS = 2048
RENEW_AFTER = timedelta(days=90)
# Verifiers keep the published set for five minutes: a new key waits until all of them know it.
PUBLISHED_AHEAD = timedelta(minutes=10)
# The longest life of an access token: for so long an old key still verifies.
LONGEST_TTL = timedelta(days=30)
_KEPT_SETS = 500
_LONGEST_TOKEN = 8192
_READ_AGAIN_SECONDS = 1.0
_CLOCK_SECONDS = 60

_ADD = (
    "insert into auth.signing_keys (kid, public_key, private_key, signs_from) "
    "values ($1, $2::jsonb, $3, case when exists (select from auth.signing_keys) then now() + $4 else now() end)"
)
_RETIRE = (
    "delete from auth.signing_keys k where exists "
    "(select from auth.signing_keys n where n.signs_from > k.signs_from and n.signs_from < now() - $1::interval)"
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key pair; ``jwk`` is the public half as published."""

    kid: str
    jwk: dict[str, Any]
    private: RSAPrivateKey
    public: RSAPublicKey
    signs_from: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeySet:
    """An app's keys, newest first, as read for that record of the app."""

    app: App
    read_at: float
    keys: tuple[Key, ...]

    def signer(self) -> Key | None:
        """The key that signs now."""
        now = datetime.now(UTC)
        return next((key for key in self.keys if key.signs_from <= now), None)

    def find(self, kid: Any) -> Key | None:
        """The key of that id."""
        return next((key for key in self.keys if key.kid == kid), None)


async def key_set(deps: Deps, app: App, *, again: bool = False) -> KeySet:
    """The app's keys. Remembered for as long as the registry remembers the very record ``app``, which
    it forgets on every replica when a change of the app, or of its keys, is announced.
    """
    sets = state_of(deps).key_sets
    known: KeySet | None = sets.get(app.id)
    if known is not None and known.app is app and not again:
        sets.move_to_end(app.id)
        return known
    async with users_of(deps, app) as connection:
        rows = await connection.fetch(
            "select kid, public_key::text as jwk, private_key, signs_from, created_at "
            "from auth.signing_keys order by signs_from desc, kid"
        )
    made = KeySet(app, time.monotonic(), tuple(_key_of(deps, app, row) for row in rows))
    sets[app.id] = made
    while len(sets) > _KEPT_SETS:
        sets.popitem(last=False)
    return made


def _key_of(deps: Deps, app: App, row: Any) -> Key:
    private = load_der_private_key(unseal(deps, app, row["kid"], row["private_key"]), None)
    if not isinstance(private, RSAPrivateKey):
        raise TypeError("a signing key is not RSA")
    return Key(row["kid"], json.loads(row["jwk"]), private, private.public_key(), row["signs_from"], row["created_at"])


async def published(deps: Deps, app: App) -> dict[str, Any]:
    """The public halves, as RFC 7517 has them; no keys before the first sign-in."""
    return {"keys": [key.jwk for key in (await key_set(deps, app)).keys]}


async def renew(deps: Deps, app: App, older_than: timedelta = RENEW_AFTER) -> App:
    """Add a key unless the newest is young enough, drop those past their time; the app's new record."""
    private = await anyio.to_thread.run_sync(partial(generate_private_key, 65537, KEY_BITS))
    kid = secrets.token_hex(8)
    jwk = {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "alg": ALGORITHM, "use": "sig"}
    jwk.pop("key_ops", None)
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    async with users_of(deps, app) as connection:
        # Replicas that find the key old at the same moment: the first adds one, the others see it.
        await connection.execute("select pg_advisory_xact_lock(hashtextextended('auth-signing-keys', 0))")
        newest = await connection.fetchval("select max(created_at) from auth.signing_keys")
        if newest is None or datetime.now(UTC) - newest >= older_than:
            await connection.execute(_ADD, kid, json.dumps(jwk), seal(deps, app, kid, der), PUBLISHED_AHEAD)
        await connection.execute(_RETIRE, LONGEST_TTL + timedelta(days=1))
    await deps.registry.changed(app.id)
    return await deps.registry.find(app.id) or app


async def sign(deps: Deps, app: App, claims: dict[str, Any], seconds: int) -> str:
    """An access token of the app with these claims."""
    keys = await key_set(deps, app)
    if keys.signer() is None or datetime.now(UTC) - keys.keys[0].created_at >= RENEW_AFTER:
        keys = await key_set(deps, await renew(deps, app), again=True)
    key = keys.signer()
    if key is None:
        raise RuntimeError(f"no key of {app.id} signs yet")
    now = int(time.time())
    whole = {"iss": ISSUER + app.id, **claims, "iat": now, "exp": now + seconds, "jti": secrets.token_hex(16)}
    return jwt.encode(whole, key.private, ALGORITHM, headers={"kid": key.kid})


def claimed_app(token: str) -> str | None:
    """The app whose token this says it is; None when it is not an end user's token at all. Proves nothing.

    Raises for an issuer that no app can be: it may hold what the database does not take as text.
    """
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.InvalidTokenError:
        return None
    if not isinstance(issuer, str) or not issuer.startswith(ISSUER):
        return None
    app_id = issuer.removeprefix(ISSUER)
    if not APP_ID.fullmatch(app_id):
        raise _invalid()
    return app_id


async def verify(deps: Deps, token: str, app_id: str) -> dict[str, Any]:
    """The claims of an app's access token. Raises when it has expired, or was not signed by the app."""
    app = await deps.registry.find(app_id)
    if app is None or app.status != "ready":
        raise _invalid()
    key = await _verifier(deps, app, token)
    try:
        claims = jwt.decode(
            token,
            key.public,
            algorithms=[ALGORITHM],
            issuer=ISSUER + app.id,
            options={"require": ["exp", "iat", "iss", "sub", "jti"], "verify_aud": False, "verify_iat": False},
        )
    except jwt.ExpiredSignatureError:
        raise AppError("AUTH_END_USER_JWT_EXPIRED", "The access token has expired.") from None
    except jwt.InvalidTokenError:
        raise _invalid() from None
    # Clocks of replicas differ by a little, which must not refuse a token just issued.
    early = not isinstance(claims["iat"], int) or claims["iat"] > time.time() + _CLOCK_SECONDS
    if early or claims.get("app_id") != app.id or not claims["sub"]:
        raise _invalid()
    return claims


async def _verifier(deps: Deps, app: App, token: str) -> Key:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise _invalid() from None
    if header.get("alg") != ALGORITHM:
        raise _invalid()
    keys = await key_set(deps, app)
    key = keys.find(header.get("kid"))
    if key is None and time.monotonic() - keys.read_at > _READ_AGAIN_SECONDS:
        # Another replica may have made it a moment ago. Bounded, as anybody can send an id that is none.
        key = (await key_set(deps, app, again=True)).find(header.get("kid"))
    if key is None:
        raise _invalid()
    return key


def _invalid() -> AppError:
    return AppError("AUTH_INVALID_END_USER_JWT", "The access token is not one that this app signed.")
