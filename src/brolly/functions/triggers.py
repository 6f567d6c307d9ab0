"""What starts a function, as ``deploy_function`` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.core.errors import AppError
from brolly.core.tool import Params

TYPES = ("http", "cron", "webhook", "websocket", "s3_upload")
HIDDEN = "***"
"""What is shown in the place of a secret, and what means on the way in that it stays."""


class HttpConfig(Params):
    """Config of http. ``run_as``: for whom ``ctx.db`` acts."""

    method: str | None = None
    path: str | None = None
    auth: Literal["required", "optional", "none"] = "required"
    run_as: Literal["caller", "service"] = "caller"


class CronConfig(Params):
    """Config of cron: five fields, in the time zone."""

    schedule: str = Field(min_length=1, max_length=200)
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value[:60]!r} is no time zone; expected one such as Europe/Berlin") from None
        return value

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError("expected five fields: minute hour day month weekday, such as 0 3 * * *")
        try:
            next(CronSim(value, datetime(2026, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(f"{value!r} is no cron expression ({error})") from None
        except StopIteration:
            raise ValueError(f"{value!r} never comes") from None
        return value


class WebhookConfig(Params):
    """Config of webhook: how the sender signs."""

    provider: Literal["stripe", "github", "custom"] = "custom"
    secret: str = Field(min_length=1, max_length=1000)
    signature_header: str = Field("x-signature", pattern=r"^[A-Za-z0-9-]{1,100}$")
    tolerance_seconds: int = Field(300, ge=1, le=86_400)
    idempotency_key_header: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,100}$")


class WebsocketConfig(Params):
    """Config of websocket: the name of the event that runs it. Who may connect may set it off, unless ``auth`` says
    more."""

    event: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    auth: Literal["required", "optional", "none"] = "optional"
    run_as: Literal["caller", "service"] = "caller"


class UploadConfig(Params):
    """Config of s3_upload: which uploads."""

    prefix: str | None = Field(None, max_length=500)
    content_type: str | None = Field(None, max_length=200)


_CONFIGS: dict[str, type[Params]] = {
    "http": HttpConfig,
    "cron": CronConfig,
    "webhook": WebhookConfig,
    "websocket": WebsocketConfig,
    "s3_upload": UploadConfig,
}


class TriggerParams(Params):
    """One trigger."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["http", "cron", "webhook", "websocket", "s3_upload"]
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    enabled: SkipJsonSchema[bool] = True

    @model_validator(mode="after")
    def _config(self) -> TriggerParams:
        try:
            checked = _CONFIGS[self.type].model_validate(self.config)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in ("config", *first["loc"]))
            raise ValueError(f"{self.type}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
        object.__setattr__(self, "config", checked.model_dump(exclude_none=True))
        return self


def chosen(trigger: TriggerParams | None, triggers: Sequence[TriggerParams] | None) -> list[TriggerParams]:
    """The triggers of a deployment; one http trigger when none is named, at most one of each type."""
    if trigger is not None and triggers is not None:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "deploy_function takes trigger or triggers, not both.",
            remediation="Repeat deploy_function with triggers alone.",
        )
    found = [trigger] if trigger is not None else list(triggers) if triggers else [TriggerParams(type="http")]
    types = [each.type for each in found]
    if twice := sorted({kind for kind in types if types.count(kind) > 1}):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"There is more than one trigger of type {', '.join(twice)}.",
            remediation="Repeat deploy_function with at most one trigger of each type.",
        )
    return found
