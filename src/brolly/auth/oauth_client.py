"""OAuth 2 and OpenID Connect as authlib speaks them: the address to go to, and what comes back for a code."""

# authlib carries no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, cast

import jwt
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt as jose
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from brolly.auth.oauth_config import Config
from brolly.auth.oauth_fetch import TIMEOUT, conversation, transport_of
from brolly.auth.oauth_profiles import Answer, Profile, github_address, text_of
from brolly.auth.oauth_providers import BASIC, POST, is_microsoft_issuer
from brolly.auth.oauth_states import Begun, Taken
from brolly.auth.state import state_of
from brolly.core.errors import AppError
from brolly.deps import Deps

log = logging.getLogger("brolly.auth")

# Asymmetric ones alone: with HS256 the public key, or an empty secret, could be taken for the key.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_CLOCK_SECONDS = 60
_KEPT_SECONDS = 600
_KEPT = 200
_LONGEST_KEPT = 32 * 1024  # what is longer is read each time: owners of apps choose what is kept here
_APPLE_SECRET_SECONDS = 300
_ERROR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider answers, after discovery. With ``issuers`` an ID token is needed."""

    authorization: str
    token: str
    userinfo: str
    jwks: str
    issuers: tuple[str, ...]
    token_auth: str


def provider_error(name: str, what: str, theirs: Any = None) -> AppError:
    """The error for an answer that does not let anybody in; ``theirs`` is the provider's own name of it."""
    named = theirs if isinstance(theirs, str) and _ERROR_NAME.fullmatch(theirs) else None
    log.warning("sign-in through %s: %s (%s)", name, what, named)
    return AppError(
        "OAUTH_PROVIDER_ERROR", f"{name}: {what}.", details={"provider_error": named} if named else None
    )  # fmt: skip


@contextmanager
def _reading(name: str) -> Generator[None]:
    """What a provider answers may be anything: what cannot be read is its error, not ours."""
    try:
        yield
    except OAuthError as error:
        raise provider_error(name, "the provider refused the code", error.error) from None
    except JoseError as error:
        raise provider_error(name, "the ID token does not hold", error.error) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.debug("unreadable", exc_info=True)
        raise provider_error(name, f"the answer cannot be read ({type(error).__name__})") from None


def _client(deps: Deps, config: Config, endpoints: Endpoints, redirect_uri: str) -> Any:
    return AsyncOAuth2Client(
        client_id=config.client_id,
        client_secret=_secret(config),
        token_endpoint_auth_method=endpoints.token_auth,
        redirect_uri=redirect_uri,
        scope=config.base.separator.join(config.scopes),
        code_challenge_method="S256",
        transport=transport_of(deps),
        timeout=TIMEOUT,
        trust_env=False,
        follow_redirects=False,
    )


def _secret(config: Config) -> str:
    """The client secret; Apple's is a short-lived token that the owner's key signs."""
    if not config.private_key:
        return config.client_secret
    now = int(time.time())
    claims = {
        "iss": config.metadata["teamId"],
        "iat": now,
        "exp": now + _APPLE_SECRET_SECONDS,
        "aud": config.issuer or config.base.issuers[0],
        "sub": config.client_id,
    }
    return jwt.encode(claims, config.private_key, "ES256", headers={"kid": config.metadata["keyId"]})


async def _published(deps: Deps, client: Any, address: str, *, again: bool = False) -> dict[str, Any]:
    """A document that a provider publishes about itself, remembered for ten minutes unless it is long."""
    known = state_of(deps).published
    at, document = known.get(address, (0.0, None))
    if document is not None and not again and time.monotonic() - at < _KEPT_SECONDS:
        return document
    answer = await _fetch(client, address)
    document = answer.json()
    if len(answer.content) > _LONGEST_KEPT:
        return document
    known[address] = (time.monotonic(), document)
    while len(known) > _KEPT:
        known.popitem(last=False)
    return document


async def _get(client: Any, address: str, token: str = "", query: Mapping[str, str] | None = None) -> Any:
    return (await _fetch(client, address, token, query)).json()


async def _fetch(client: Any, address: str, token: str = "", query: Mapping[str, str] | None = None) -> Any:
    headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    response = await client.request("GET", address, withhold_token=True, headers=headers, params=query or None)
    response.raise_for_status()
    return response


async def _endpoints(deps: Deps, config: Config) -> Endpoints:
    found: dict[str, Any] = {}
    if config.issuer:
        start = Endpoints("", "", "", "", (), BASIC)
        async with _client(deps, config, start, "") as client:
            found = await _published(deps, client, f"{config.issuer.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(found, dict) or found.get("issuer") != config.issuer:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise provider_error(config.name, "the published issuer is not the configured one")

    def where(own: str, published: str) -> str:
        return config.address(own) or str(found.get(published) or "")

    endpoints = Endpoints(
        where("authorization_url", "authorization_endpoint"),
        where("token_url", "token_endpoint"),
        where("userinfo_url", "userinfo_endpoint"),
        str(found["jwks_uri"]) if config.issuer else config.base.jwks_url.replace("{tenant}", config.tenant),
        (config.issuer,) if config.issuer else config.base.issuers,
        _token_auth(config, found),
    )
    if not endpoints.authorization.startswith(("https://", "http://")) or not endpoints.token:
        raise provider_error(config.name, "it publishes no addresses to sign in at")
    return endpoints


def _token_auth(config: Config, found: Mapping[str, Any]) -> str:
    chosen = config.metadata.get("token_auth")
    if chosen is not None:
        return POST if chosen == "post" else BASIC
    offered = found.get("token_endpoint_auth_methods_supported") or [config.base.token_auth]
    return config.base.token_auth if config.base.token_auth in offered else POST


async def authorization_address(deps: Deps, config: Config, begun: Begun, redirect_uri: str) -> str:
    """Where the browser goes to sign in."""
    async with conversation(config.name):
        with _reading(config.name):
            endpoints = await _endpoints(deps, config)
            extra: dict[str, str] = dict(config.base.extra)
            if endpoints.issuers and config.base.nonce:
                extra["nonce"] = begun.nonce
            async with _client(deps, config, endpoints, redirect_uri) as client:
                address, _ = client.create_authorization_url(
                    endpoints.authorization,
                    state=begun.state,
                    code_verifier=begun.verifier if config.base.pkce else None,
                    **extra,
                )
    return cast(str, address)


async def profile_for(deps: Deps, config: Config, taken: Taken, code: str, issuer: str | None, user: Any) -> Profile:
    """Who the provider says has signed in, for a code. ``issuer`` and ``user`` came with the code, if they did."""
    async with conversation(config.name):
        with _reading(config.name):
            endpoints = await _endpoints(deps, config)
            if issuer is not None and config.issuer and issuer != config.issuer:
                raise provider_error(config.name, "the answer is another issuer's")
            async with _client(deps, config, endpoints, taken.redirect_uri) as client:
                verifier = {"code_verifier": taken.verifier} if config.base.pkce else {}
                token: Any = await client.fetch_token(
                    endpoints.token, grant_type="authorization_code", code=code, **verifier
                )
                profile = await _profile(deps, config, endpoints, taken, client, token)
    if profile.name is None and isinstance(user, Mapping):
        profile = replace(profile, name=_apple_name(cast(Answer, user)))
    return profile


async def _profile(
    deps: Deps, config: Config, endpoints: Endpoints, taken: Taken, client: Any, token: Mapping[str, Any]
) -> Profile:
    access = token.get("access_token")
    if not isinstance(access, str) or not access:
        raise provider_error(config.name, "it gave no access token")
    claims: dict[str, Any] = {}
    if endpoints.issuers:
        claims = await _id_token(deps, config, endpoints, taken, client, token)
    if endpoints.userinfo and (not claims or not claims.get("email") or not claims.get("name")):
        told = await _get(client, endpoints.userinfo, access, _userinfo_query(config, access))
        if claims and told.get("sub") != claims["sub"]:
            raise provider_error(config.name, "ID token and user information are about different people")
        claims = _joined(claims, told)
    profile = config.base.read(claims)
    if config.name == "github":
        address = github_address(await _get(client, f"{endpoints.userinfo}/emails", access))
        profile = replace(profile, email=address, verified=address is not None)
    if config.metadata.get("trust_email") and profile.email is not None:
        profile = replace(profile, verified=True)
    return profile


def _joined(claims: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What was signed goes before what was not; an address and whether it is verified come from one of them."""
    other = told if claims.get("email") else claims
    dropped = {name for name in ("email", "email_verified", "xms_edov") if name in other}
    kept_claims = {k: v for k, v in claims.items() if other is told or k not in dropped}
    kept_told = {k: v for k, v in told.items() if other is claims or k not in dropped}
    return {**kept_told, **kept_claims}


def _userinfo_query(config: Config, access: str) -> dict[str, str]:
    query = dict(config.base.userinfo_query)
    if config.name == "facebook":
        query["appsecret_proof"] = hmac.new(config.client_secret.encode(), access.encode(), sha256).hexdigest()
    if config.name == "x" and "users.email" in config.scopes:
        query["user.fields"] += ",confirmed_email"
    return query


async def _id_token(
    deps: Deps, config: Config, endpoints: Endpoints, taken: Taken, client: Any, token: Mapping[str, Any]
) -> dict[str, Any]:
    """The claims of the ID token, verified: who signed it, for whom, when, and for this very sign-in."""
    text = token.get("id_token")
    if not isinstance(text, str):
        raise provider_error(config.name, "it gave no ID token; the scope openid may be missing")
    document = await _published(deps, client, endpoints.jwks)
    try:
        signed = jose.decode(text, _keys(document), algorithms=ALGORITHMS)
    except (JoseError, ValueError):
        # The key may be younger than what is remembered.
        document = await _published(deps, client, endpoints.jwks, again=True)
        signed = jose.decode(text, _keys(document), algorithms=ALGORITHMS)
    claims = CodeIDToken(
        signed.claims,
        signed.header,
        {"aud": {"essential": True, "value": config.client_id}},
        {
            "client_id": config.client_id,
            "access_token": token["access_token"],
            "nonce": taken.nonce if config.base.nonce else None,
        },
    )
    claims.validate(leeway=_CLOCK_SECONDS)
    if not _is_issuer(config, endpoints, claims):
        raise provider_error(config.name, "the ID token is another issuer's")
    return dict(claims)


def _is_issuer(config: Config, endpoints: Endpoints, claims: Mapping[str, Any]) -> bool:
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        return False
    if config.name == "microsoft" and not config.issuer:
        return is_microsoft_issuer(issuer, claims, config.tenant)
    return issuer in endpoints.issuers


def _keys(document: Any) -> KeySet:
    entries: Any = document["keys"]
    usable = [k for k in entries if k.get("kty") in ("RSA", "EC", "OKP") and k.get("use", "sig") == "sig"]
    return KeySet.import_key_set({"keys": usable})


def read_user(text: str | None) -> Any:
    """What Apple sends along with the first sign-in, as JSON text; None for anything else."""
    try:
        return json.loads(text) if text and len(text) <= 4000 else None
    except (ValueError, RecursionError):
        return None


def _apple_name(user: Answer) -> str | None:
    name: Any = user.get("name")
    if not isinstance(name, Mapping):
        return None
    parts = [text_of(cast(Answer, name).get(key)) for key in ("firstName", "lastName")]
    return text_of(" ".join(part for part in parts if part))
