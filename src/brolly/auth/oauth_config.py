"""manage_oauth: which providers an app's users may sign in through, for its owner."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, Field
from pydantic.json_schema import SkipJsonSchema

from brolly.auth.access import users_of
from brolly.auth.oauth_providers import BUILT_IN, CUSTOM, CUSTOM_OIDC, GUID, NAME, TENANTS, Provider
from brolly.auth.oauth_redirects import split
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.sealing import seal, unseal

_COLUMNS = (
    "id, provider, client_id, secrets, redirect_uris, scopes, authorization_url, token_url, userinfo_url, "
    "provider_metadata::text, enabled, created_at"
)
_PUT = (
    "insert into auth.oauth_providers (provider, client_id, secrets, redirect_uris, scopes, authorization_url, "
    "token_url, userinfo_url, provider_metadata, enabled) values ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10) "
    "on conflict (provider) do update set client_id = excluded.client_id, secrets = excluded.secrets, "
    "redirect_uris = excluded.redirect_uris, scopes = excluded.scopes, "
    "authorization_url = excluded.authorization_url, token_url = excluded.token_url, "
    "userinfo_url = excluded.userinfo_url, provider_metadata = excluded.provider_metadata, "
    f"enabled = excluded.enabled, updated_at = now() returning {_COLUMNS}"
)
_APPLE = ("teamId", "keyId", "privateKey")
_KNOWN = {*_APPLE, "issuer", "tenant", "trust_email", "token_auth"}


def _web_address(text: str) -> str:
    try:
        split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} {error}") from None
    return text


def _provider_name(text: str) -> str:
    if not NAME.fullmatch(text) or text == "email":
        raise ValueError("expected a-z, 0-9, - and _, at most 40, starting with a letter; email is taken")
    return text


Name = Annotated[str, AfterValidator(_provider_name)]
Web = Annotated[str, AfterValidator(_web_address)]
ClientId = Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,500}$")]
Scope = Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,200}$")]
Secret = Annotated[str, Field(min_length=1, max_length=10_000)]


class _Fields(AppParams):
    provider: Name
    # Taken, but not told of: built-in providers need none of it, and the list of tools has to stay short.
    # The tool's page, and the errors of what lacks it, say when it is needed.
    redirect_uris: SkipJsonSchema[list[Web] | None] = Field(None, min_length=1, max_length=50)
    scopes: SkipJsonSchema[list[Scope] | None] = Field(None, max_length=50)
    authorization_url: SkipJsonSchema[Web | None] = None
    token_url: SkipJsonSchema[Web | None] = None
    userinfo_url: SkipJsonSchema[Web | None] = None
    provider_metadata: SkipJsonSchema[dict[str, Any] | None] = None


class Configure(_Fields):
    """Parameters of configure. Without redirect_uris it is this server's own callback."""

    client_id: ClientId
    client_secret: Secret | None = None


class Update(_Fields):
    """Parameters of update: those of configure; what is left out stays."""

    client_id: SkipJsonSchema[ClientId | None] = None
    client_secret: SkipJsonSchema[Secret | None] = None
    # The published backend has it over HTTP alone.
    enabled: SkipJsonSchema[bool | None] = None


class Get(AppParams):
    """Parameters of get."""

    provider: Name | None = None


class Ref(AppParams):
    """Parameters of delete."""

    provider: Name


@dataclass(frozen=True, slots=True)
class Config:
    """One provider as an app's owner has set it up. Secrets are in the clear: it is never shown as it is."""

    id: str
    name: str
    client_id: str
    client_secret: str
    private_key: str
    redirect_uris: list[str]
    scopes: list[str]
    authorization_url: str
    token_url: str
    userinfo_url: str
    metadata: dict[str, Any]
    enabled: bool
    created_at: Any

    @property
    def base(self) -> Provider:
        """The provider's own ways; a custom one is OpenID Connect when it names its issuer."""
        return BUILT_IN.get(self.name) or (CUSTOM_OIDC if self.issuer else CUSTOM)

    @property
    def issuer(self) -> str:
        """The issuer whose published addresses and keys hold, if one is named."""
        return self.metadata.get("issuer", "")

    @property
    def tenant(self) -> str:
        """Whose accounts may sign in, for microsoft."""
        return self.metadata.get("tenant", "common")

    def address(self, name: str) -> str:
        """The owner's address, else the built-in one; "" when it is left to discovery."""
        own: str = getattr(self, name)
        return own or ("" if self.issuer else getattr(self.base, name).replace("{tenant}", self.tenant))


def _config_of(deps: Deps, app: App, row: Any) -> Config:
    kept = json.loads(unseal(deps, app, f"oauth:{row['provider']}", row["secrets"]))
    return Config(
        id=str(row["id"]),
        name=row["provider"],
        client_id=row["client_id"],
        client_secret=kept["client_secret"],
        private_key=kept["private_key"],
        redirect_uris=list(row["redirect_uris"]),
        scopes=list(row["scopes"]),
        authorization_url=row["authorization_url"] or "",
        token_url=row["token_url"] or "",
        userinfo_url=row["userinfo_url"] or "",
        metadata=json.loads(row["provider_metadata"]),
        enabled=row["enabled"],
        created_at=row["created_at"],
    )


def _shown(app: App, config: Config) -> dict[str, Any]:
    return {
        "id": config.id,
        "app_id": app.id,
        "provider": config.name,
        "client_id": config.client_id,
        "redirect_uris": config.redirect_uris,
        "scopes": config.scopes,
        "authorization_url": config.address("authorization_url") or None,
        "token_url": config.address("token_url") or None,
        "userinfo_url": config.address("userinfo_url") or None,
        "enabled": config.enabled,
        "provider_metadata": config.metadata,
        "created_at": iso(config.created_at),
    }


async def find(deps: Deps, app: App, connection: Connection, name: str) -> Config | None:
    """The provider as configured; None when it is not."""
    row = await connection.fetchrow(f"select {_COLUMNS} from auth.oauth_providers where provider = $1", name)
    return None if row is None else _config_of(deps, app, row)


def _wrong(field: str, what: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"{field} {what}.",
        remediation="Correct it and repeat manage_oauth configure; its page in butterbase_docs has what each provider "
        "needs.",
        details={"field": field},
    )


def _not_found(name: str) -> AppError:
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"The provider {name!r} is not configured.",
        remediation="Call manage_oauth with action get for those that are, or configure to add one.",
    )


def _check(config: Config) -> None:
    """Raise for what would only fail when the first user signs in."""
    if config.name == "apple":
        _check_apple(config)
    elif not config.client_secret:
        raise AppError("VALIDATION_MISSING_FIELD", f"manage_oauth configure: {config.name} needs client_secret.")
    if config.base is CUSTOM:
        missing = [n for n in ("authorization_url", "token_url", "userinfo_url") if not config.address(n)]
        if missing:
            raise AppError(
                "VALIDATION_MISSING_FIELD",
                f"{config.name} is not built in, so it needs {', '.join(missing)}, or provider_metadata.issuer.",
                remediation="Repeat manage_oauth configure with them; the built-in names are "
                "google, github, discord, facebook, linkedin, microsoft, apple and x.",
            )
    oidc = config.base is not CUSTOM and (config.issuer or config.base.issuers)
    if oidc and config.name != "apple" and "openid" not in config.scopes:
        raise _wrong("scopes", "must hold openid")


def _check_apple(config: Config) -> None:
    missing = [n for n in _APPLE[:2] if not config.metadata.get(n)] + (["privateKey"] if not config.private_key else [])
    if missing and (len(missing) < len(_APPLE) or not config.client_secret):
        raise _wrong("provider_metadata", f"needs {', '.join(missing)} for apple")
    if not missing:
        try:
            key = load_pem_private_key(config.private_key.encode(), None)
        except (ValueError, TypeError):
            raise _wrong("provider_metadata.privateKey", "is not a private key in PEM (the .p8 file's text)") from None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise _wrong("provider_metadata.privateKey", "is not a key on the curve P-256")


def _read_metadata(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The metadata without the private key, and the key."""
    unknown = sorted(given.keys() - _KNOWN)
    if unknown:
        raise _wrong("provider_metadata", f"has no {', '.join(unknown)}; known are {', '.join(sorted(_KNOWN))}")
    kept = {key: value for key, value in given.items() if value is not None}
    if not isinstance(kept.setdefault("trust_email", False), bool):
        raise _wrong("provider_metadata.trust_email", "is neither true nor false")
    for key, value in kept.items():
        if key != "trust_email" and (not isinstance(value, str) or not value or len(value) > 10_000 or "\0" in value):
            raise _wrong(f"provider_metadata.{key}", "is not a text")
    _check_metadata(name, kept)
    if not kept["trust_email"]:
        del kept["trust_email"]
    # Keys are often pasted with \n written out.
    return kept, kept.pop("privateKey", "").replace("\\n", "\n").strip()


def _check_metadata(name: str, kept: dict[str, Any]) -> None:
    tenant = kept.get("tenant", "common" if name == "microsoft" else None)
    if tenant is not None and (name != "microsoft" or not (tenant in TENANTS or GUID.fullmatch(tenant))):
        raise _wrong("provider_metadata.tenant", f"is, for microsoft, a tenant's id or one of {', '.join(TENANTS)}")
    if kept["trust_email"] and tenant in TENANTS:
        raise _wrong("provider_metadata.trust_email", "needs a tenant's id: administrators of others write any address")
    if kept["trust_email"] and name in BUILT_IN and name != "microsoft":
        raise _wrong("provider_metadata.trust_email", f"does not go with {name}")
    if kept.get("token_auth", "basic") not in ("basic", "post"):
        raise _wrong("provider_metadata.token_auth", "is neither basic nor post")
    if "issuer" in kept:
        try:
            issuer = split(kept["issuer"])
        except ValueError as error:
            raise _wrong("provider_metadata.issuer", str(error)) from None
        if issuer.query:
            raise _wrong("provider_metadata.issuer", "has a query")


def _merged(given: Configure | Update, old: Config | None, enabled: bool) -> Config:
    metadata, key = (dict[str, Any](), "") if old is None else (old.metadata, old.private_key)
    if given.provider_metadata is not None:
        # Answers leave the key out, so what comes back without it must not lose it.
        metadata, new_key = _read_metadata(given.provider, given.provider_metadata)
        key = new_key or key
    config = Config(
        id="",
        name=given.provider,
        client_id=given.client_id or (old.client_id if old else ""),
        client_secret=given.client_secret or (old.client_secret if old else ""),
        private_key=key,
        redirect_uris=given.redirect_uris or (old.redirect_uris if old else []),
        scopes=given.scopes if given.scopes is not None else (old.scopes if old else []),
        authorization_url=given.authorization_url or (old.authorization_url if old else ""),
        token_url=given.token_url or (old.token_url if old else ""),
        userinfo_url=given.userinfo_url or (old.userinfo_url if old else ""),
        metadata=metadata,
        enabled=enabled,
        created_at=None,
    )
    config = config if config.scopes else replace(config, scopes=list(config.base.scopes))
    _check(config)
    return config


async def _put(deps: Deps, app: App, connection: Connection, config: Config) -> Config:
    secrets = json.dumps({"client_secret": config.client_secret, "private_key": config.private_key}).encode()
    row = await connection.fetchrow(
        _PUT,
        config.name,
        config.client_id,
        seal(deps, app, f"oauth:{config.name}", secrets),
        config.redirect_uris,
        config.scopes,
        config.authorization_url or None,
        config.token_url or None,
        config.userinfo_url or None,
        json.dumps(config.metadata),
        config.enabled,
    )
    return _config_of(deps, app, row)


async def configure(deps: Deps, caller: Caller, params: Configure) -> dict[str, Any]:
    """Set a provider up; one that is there is replaced whole."""
    app = await deps.registry.get(caller, params.app_id)
    own = callback_address(deps, app, params.provider)
    config = _merged(params, None, enabled=True)
    config = config if config.redirect_uris else replace(config, redirect_uris=[own])
    async with users_of(deps, app) as connection:
        kept = await _put(deps, app, connection, config)
    said = f"Users can sign in at {own.removesuffix('/callback')}?redirect_to=<page>."
    if own not in kept.redirect_uris:
        said += f" The provider sends browsers to {kept.redirect_uris[0]}, whose page must pass them on to {own}."
    else:
        said += f" Register {own} at the provider."
    return {"message": said, "config": _shown(app, kept)}


def callback_address(deps: Deps, app: App, name: str) -> str:
    """Where providers send browsers back to."""
    return f"{deps.settings.base_url}/auth/{app.id}/oauth/{name}/callback"


async def get(deps: Deps, caller: Caller, params: Get) -> dict[str, Any]:
    """One provider, or all of them. Secrets are never shown."""
    app = await deps.registry.get(caller, params.app_id)
    async with users_of(deps, app) as connection:
        if params.provider is not None:
            config = await find(deps, app, connection, params.provider)
            if config is None:
                raise _not_found(params.provider)
            return _shown(app, config)
        rows = await connection.fetch(f"select {_COLUMNS} from auth.oauth_providers order by provider limit 200")
    return {"configs": [_shown(app, _config_of(deps, app, row)) for row in rows]}


async def update(deps: Deps, caller: Caller, params: Update) -> dict[str, Any]:
    """Change what is given. Sign-ins under way go on."""
    app = await deps.registry.get(caller, params.app_id)
    if not params.model_dump(exclude_none=True, exclude={"app_id", "provider"}):
        raise AppError("VALIDATION_INVALID_SCHEMA", "manage_oauth update: there is nothing to change.")
    async with users_of(deps, app) as connection:
        await connection.execute("select 1 from auth.oauth_providers where provider = $1 for update", params.provider)
        old = await find(deps, app, connection, params.provider)
        if old is None:
            raise _not_found(params.provider)
        enabled = old.enabled if params.enabled is None else params.enabled
        config = await _put(deps, app, connection, _merged(params, old, enabled))
    return {"message": f"{config.name} was changed.", "config": _shown(app, config)}


async def what_delete_loses(deps: Deps, caller: Caller, params: Ref) -> str | None:
    """The question before a provider is deleted."""
    app = await deps.registry.get(caller, params.app_id)
    async with users_of(deps, app) as connection:
        if await find(deps, app, connection, params.provider) is None:
            raise _not_found(params.provider)
        users = await connection.fetchval(
            "select count(*) from auth.identities where provider = $1", params.provider
        )  # fmt: skip
    return f"Delete the provider {params.provider} with its secret? {users} users signed in through it and no more can."


async def delete(deps: Deps, caller: Caller, params: Ref) -> dict[str, Any]:
    """Delete a provider. Who signed in through it stays so until the session ends, and is known when it comes back."""
    app = await deps.registry.get(caller, params.app_id)
    async with users_of(deps, app) as connection:
        gone = await connection.fetchval(
            "delete from auth.oauth_providers where provider = $1 returning 1", params.provider
        )
        await connection.execute("delete from auth.oauth_states where provider = $1", params.provider)
    if gone is None:
        raise _not_found(params.provider)
    return {"message": f"Nobody signs in through {params.provider} any more.", "provider": params.provider}
