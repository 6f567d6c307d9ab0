"""The sign-in providers that are known by name: their addresses, and how each departs from the standard."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from brolly.auth import oauth_profiles as profiles
from brolly.auth.oauth_profiles import Answer, Profile

BASIC, POST = "client_secret_basic", "client_secret_post"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TENANTS = ("common", "organizations", "consumers")
_CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"
_MICROSOFT = "https://login.microsoftonline.com"


@dataclass(frozen=True, slots=True)
class Provider:
    """How one provider is spoken to. With ``issuers`` it is OpenID Connect and its ID token is verified against
    ``jwks_url``; without, the person is whoever ``userinfo_url`` says. ``{tenant}`` stands for Microsoft's.
    """

    authorization_url: str = ""
    token_url: str = ""
    userinfo_url: str = ""
    scopes: tuple[str, ...] = ()
    read: Callable[[Answer], Profile] = profiles.read_custom
    issuers: tuple[str, ...] = ()
    jwks_url: str = ""
    token_auth: str = POST
    separator: str = " "
    pkce: bool = True
    nonce: bool = True
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    userinfo_query: Mapping[str, str] = field(default_factory=dict[str, str])


CUSTOM = Provider(token_auth=BASIC)
CUSTOM_OIDC = Provider(scopes=("openid", "email", "profile"), read=profiles.read_claims, token_auth=BASIC)

BUILT_IN: Mapping[str, Provider] = {
    "google": Provider(
        "https://accounts.google.com/o/oauth2/v2/auth",
        "https://oauth2.googleapis.com/token",
        "https://openidconnect.googleapis.com/v1/userinfo",
        ("openid", "email", "profile"),
        profiles.read_claims,
        issuers=("https://accounts.google.com", "accounts.google.com"),
        jwks_url="https://www.googleapis.com/oauth2/v3/certs",
    ),
    "github": Provider(
        "https://github.com/login/oauth/authorize",
        "https://github.com/login/oauth/access_token",
        "https://api.github.com/user",
        ("user:email",),
        profiles.read_github,
    ),
    "discord": Provider(
        "https://discord.com/oauth2/authorize",
        "https://discord.com/api/oauth2/token",
        "https://discord.com/api/users/@me",
        ("identify", "email"),
        profiles.read_discord,
    ),
    "facebook": Provider(
        "https://www.facebook.com/dialog/oauth",
        "https://graph.facebook.com/oauth/access_token",
        "https://graph.facebook.com/me",
        ("email", "public_profile"),
        profiles.read_facebook,
        separator=",",
        userinfo_query={"fields": "id,name,email,picture"},
    ),
    # Refuses a code verifier of web applications, and leaves the nonce out of its ID tokens.
    "linkedin": Provider(
        "https://www.linkedin.com/oauth/v2/authorization",
        "https://www.linkedin.com/oauth/v2/accessToken",
        "https://api.linkedin.com/v2/userinfo",
        ("openid", "profile", "email"),
        profiles.read_claims,
        issuers=("https://www.linkedin.com/oauth", "https://www.linkedin.com"),
        jwks_url="https://www.linkedin.com/oauth/openid/jwks",
        pkce=False,
        nonce=False,
    ),
    "microsoft": Provider(
        f"{_MICROSOFT}/{{tenant}}/oauth2/v2.0/authorize",
        f"{_MICROSOFT}/{{tenant}}/oauth2/v2.0/token",
        "https://graph.microsoft.com/oidc/userinfo",
        ("openid", "email", "profile", "User.Read"),
        profiles.read_microsoft,
        issuers=(f"{_MICROSOFT}/{{tid}}/v2.0",),
        jwks_url=f"{_MICROSOFT}/{{tenant}}/discovery/v2.0/keys",
    ),
    "apple": Provider(
        "https://appleid.apple.com/auth/authorize",
        "https://appleid.apple.com/auth/token",
        "",
        ("name", "email"),
        profiles.read_claims,
        issuers=("https://appleid.apple.com",),
        jwks_url="https://appleid.apple.com/auth/keys",
        extra={"response_mode": "form_post"},
    ),
    "x": Provider(
        "https://x.com/i/oauth2/authorize",
        "https://api.x.com/2/oauth2/token",
        "https://api.x.com/2/users/me",
        ("tweet.read", "users.read"),
        profiles.read_x,
        token_auth=BASIC,
        userinfo_query={"user.fields": "profile_image_url"},
    ),
}


def is_microsoft_issuer(issuer: str, claims: Mapping[str, Any], tenant: str) -> bool:
    """Whether the tenant that signed is one that was asked for. All tenants share their keys, so a signature
    alone does not tell: any of them could name another in ``iss``.
    """
    tid = claims.get("tid")
    if not isinstance(tid, str) or not GUID.fullmatch(tid) or issuer != f"{_MICROSOFT}/{tid}/v2.0":
        return False
    if tenant == "organizations":
        return tid != _CONSUMERS
    if tenant == "consumers":
        return tid == _CONSUMERS
    return tenant in ("common", tid)
