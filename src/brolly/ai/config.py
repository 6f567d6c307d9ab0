"""An app's rules for models: which, how much, for how many dollars, and by whose key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from brolly.ai.providers import KNOWN, Provider, canonical, make_provider, provider_of_key
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.core.wording import in_json
from brolly.deps import Deps
from brolly.registry import App
from brolly.sealing import seal, unseal

SEAL = "ai-byok"
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$"
USER_CALLS = 60
"""Calls a minute of one end user, unless the app's owner says otherwise."""
BODY_DAYS = 7
_WHERE = ("byokProvider", "byokBaseUrl")


class Price(BaseModel):
    """Dollars for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, le=10_000_000)
    output: float = Field(0, ge=0, le=10_000_000)


class ConfigChanges(BaseModel):
    """What update_config may change; null or "" takes a rule away."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaultModel: str | None = Field(None, max_length=200)  # noqa: N815 - as the published clients call it
    embeddingModel: str | None = Field(None, max_length=200)  # noqa: N815
    fallbackModels: list[str] | None = Field(None, max_length=10)  # noqa: N815
    allowedModels: list[str] | None = Field(None, max_length=200)  # noqa: N815
    maxTokensPerRequest: int | None = Field(None, ge=1, le=100_000)  # noqa: N815
    spendingCapUsd: float | None = Field(None, ge=0, le=10_000_000)  # noqa: N815
    userRequestsPerMinute: int | None = Field(None, ge=0, le=100_000)  # noqa: N815
    prices: dict[str, Price] | None = Field(None, max_length=200)
    logBodies: bool | None = None  # noqa: N815
    logBodyDays: int | None = Field(None, ge=1, le=365)  # noqa: N815
    byokKey: str | None = Field(None, max_length=1000, repr=False)  # noqa: N815
    byokProvider: str | None = Field(None, pattern=r"^([a-z][a-z0-9-]{0,30})?$")  # noqa: N815
    byokBaseUrl: str | None = Field(None, max_length=500)  # noqa: N815

    @field_validator("defaultModel", "embeddingModel")
    @classmethod
    def _model(cls, value: str | None) -> str | None:
        return check_model(value) if value else value

    @field_validator("fallbackModels", "allowedModels")
    @classmethod
    def _models(cls, values: list[str] | None) -> list[str] | None:
        return [check_model(value) for value in values] if values else values

    @field_validator("byokKey")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        if value and (not value.isascii() or not value.isprintable() or " " in value):
            raise ValueError("a key has no blanks and no characters beyond ASCII")
        return value

    @model_validator(mode="after")
    def _something(self) -> ConfigChanges:
        if not self.model_fields_set:
            raise ValueError("config names nothing to change")
        return self


def check_model(value: str) -> str:
    """A model's name, or what stands for several (``openai/*``); raises ``ValueError``."""
    if not re.match(MODEL, value.removesuffix("*") or "a"):
        raise ValueError(f"{value[:80]!a} is not a model's name such as openai/gpt-5-mini")
    return value


class UpdateConfig(AppParams):
    """Parameters of update_config."""

    config: dict[str, Any]

    @field_validator("config")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            ConfigChanges.model_validate(value)
        except ValidationError as error:
            # Its fields are not in the list of tools, which has to stay short.
            said = [f"{'.'.join(map(str, one['loc']))} {in_json(one)}".strip() for one in error.errors()[:5]]
            raise ValueError(f"{'; '.join(said)}; it takes {', '.join(ConfigChanges.model_fields)}") from None
        return value


@dataclass(frozen=True, slots=True)
class AiConfig:
    """An app's rules, with what was not set filled in."""

    default_model: str = ""
    embedding_model: str = ""
    fallback_models: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    max_tokens: int | None = None
    cap: Decimal | None = None
    user_calls: int = USER_CALLS
    prices: Mapping[str, Mapping[str, float]] | None = None
    log_days: int = 0
    """Days for which bodies are kept; 0: they are not."""

    def allows(self, name: str) -> bool:
        """Whether the owner allows the model; an empty list allows all."""
        return not self.allowed_models or any(
            name == allowed or (allowed.endswith("*") and name.startswith(allowed[:-1]))
            for allowed in self.allowed_models
        )


def config_of(app: App | None) -> AiConfig:
    """The app's rules; those of no app are the defaults."""
    given: Mapping[str, Any] = app.ai_config if app is not None else {}
    cap = given.get("spendingCapUsd")
    return AiConfig(
        default_model=given.get("defaultModel") or "",
        embedding_model=given.get("embeddingModel") or "",
        fallback_models=tuple(given.get("fallbackModels") or ()),
        allowed_models=tuple(given.get("allowedModels") or ()),
        max_tokens=given.get("maxTokensPerRequest"),
        cap=None if cap is None else Decimal(str(cap)),
        user_calls=given.get("userRequestsPerMinute", USER_CALLS),
        prices=given.get("prices"),
        log_days=given.get("logBodyDays", BODY_DAYS) if given.get("logBodies") else 0,
    )


def owned_provider(deps: Deps, app: App) -> Provider | None:
    """The provider whose key the app's owner gave."""
    if app.ai_key is None:
        return None
    key = unseal(deps, app, SEAL, app.ai_key).decode()
    given = app.ai_config
    name = given.get("byokProvider") or provider_of_key(key) or "custom"
    return make_provider(name, key=key, address=given.get("byokBaseUrl") or "", owned=True)


def shown(deps: Deps, app: App) -> dict[str, Any]:
    """The rules as the owner reads them back. Of the key the last four characters alone."""
    config = {name: value for name, value in app.ai_config.items() if value not in (None, "", [], {})}
    if app.ai_key is not None:
        key = unseal(deps, app, SEAL, app.ai_key).decode()
        config["byokKey"] = "***" + (key[-4:] if len(key) >= 12 else "")
        provider = owned_provider(deps, app)
        config["byokProvider"] = provider.name if provider else None
    return config


async def get_config(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """The app's rules, without secrets."""
    app = await deps.registry.get(caller, params.app_id)
    return {"config": shown(deps, app)}


async def update_config(deps: Deps, caller: Caller, params: UpdateConfig) -> dict[str, Any]:
    """Change the rules; what is left out stays. They hold from the next call, on every replica."""
    app = await deps.registry.get(caller, params.app_id)
    given = ConfigChanges.model_validate(params.config)
    changes = given.model_dump(include=given.model_fields_set, mode="json")
    key = changes.pop("byokKey", None)
    _check_owned(deps, app, changes, key)
    sealed = seal(deps, app, SEAL, key.encode()) if key else None
    await deps.control.execute(
        # Two changes at once keep both; what was set to null goes.
        "update brolly.apps set ai_config = jsonb_strip_nulls(ai_config || $2::jsonb), "
        "ai_key = case when $3 then $4::bytea else ai_key end, updated_at = now() where id = $1",
        app.id,
        json.dumps(changes),
        key is not None,
        sealed,
    )
    await deps.registry.changed(app.id)
    app = await deps.registry.get(caller, params.app_id)
    return {"config": shown(deps, app)}


def _check_owned(deps: Deps, app: App, changes: Mapping[str, Any], key: str | None) -> None:
    """A key must have a provider to go to, and none that lies in the server's own network."""
    address = changes.get("byokBaseUrl", app.ai_config.get("byokBaseUrl"))
    name = canonical(changes.get("byokProvider", app.ai_config.get("byokProvider")) or "")
    if address and not _is_address(address, deps.settings.allow_private_network):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "byokBaseUrl is not a public https address such as https://llm.example.com/v1.",
            remediation="Repeat manage_ai update_config with a public https address; the operator may set "
            "BROLLY_ALLOW_PRIVATE_NETWORK, or name a server of their own in BROLLY_AI_PROVIDERS.",
        )
    moved = any(changes.get(part, "") != (app.ai_config.get(part) or "") for part in _WHERE if part in changes)
    if moved and key is None and app.ai_key is not None:
        # Else whoever may change the rules could have the key sent to an address of theirs.
        raise AppError(
            "VALIDATION_MISSING_FIELD",
            "byokProvider and byokBaseUrl say where the key goes; with them the key has to be sent again.",
            remediation="Repeat manage_ai update_config with byokKey as well.",
        )
    if key and not address and (name or provider_of_key(key)) not in KNOWN:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "How this byokKey begins does not tell whose it is.",
            remediation="Repeat manage_ai update_config with byokProvider set to one of: "
            f"{', '.join(KNOWN)}; or with byokBaseUrl.",
        )


def _is_address(address: str, private: bool) -> bool:
    try:
        url = urlsplit(address)
        plain = not (url.username or url.password or url.query or url.fragment)
        scheme = url.scheme.rpartition("+")[2]
        spoken = url.scheme.rpartition("+")[0] in ("", "openai", "anthropic", "google")
        return spoken and scheme in (("https", "http") if private else ("https",)) and bool(url.hostname) and plain
    except ValueError:
        return False
