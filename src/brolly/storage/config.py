"""An app's rules for its files: how large, how much, which types, and whether users read each other's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App
from brolly.storage.names import is_pattern

MB = 1024 * 1024
DEFAULT_FILE_MB = 10
DEFAULT_LIMIT = 1024 * MB
LARGEST_FILE_MB = 5 * MB
"""5 TiB, the largest object of an S3."""


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """The rules in bytes, with what was not set filled in."""

    file_bytes: int
    limit_bytes: int
    types: tuple[str, ...]
    public_read: bool
    user_bytes: int | None = None
    """What one user's files may hold together."""


def config_of(app: App) -> StorageConfig:
    """The app's rules."""
    given = app.storage_config
    return StorageConfig(
        file_bytes=int(given.get("maxFileSizeMb", DEFAULT_FILE_MB)) * MB,
        limit_bytes=int(given.get("storageLimitBytes", DEFAULT_LIMIT)),
        types=tuple(given.get("allowedContentTypes", ("*/*",))),
        public_read=given.get("publicReadEnabled") is True,
        user_bytes=int(given.get("maxBytesPerUser", 0)) or None,
    )


class UpdateConfig(AppParams):
    """Parameters of update_config; what is left out stays. Named as the published clients do."""

    public_read: bool | None = Field(None, alias="publicReadEnabled")
    # Taken, but not told of: the list of tools has to stay short, and the tool's page says it.
    max_file_mb: SkipJsonSchema[int | None] = Field(None, alias="maxFileSizeMb", ge=1, le=LARGEST_FILE_MB)
    limit_bytes: SkipJsonSchema[int | None] = Field(None, alias="storageLimitBytes", ge=1, le=2**60)
    user_bytes: SkipJsonSchema[int | None] = Field(None, alias="maxBytesPerUser", ge=0, le=2**60)
    types: SkipJsonSchema[list[str] | None] = Field(None, alias="allowedContentTypes", min_length=1, max_length=100)

    @field_validator("types")
    @classmethod
    def _patterns(cls, values: list[str] | None) -> list[str] | None:
        wrong = [value for value in values or () if not is_pattern(value)]
        if wrong:
            raise ValueError(f"{wrong[0][:80]!a} is neither a type such as image/png nor image/* nor */*")
        return values


async def update_config(deps: Deps, caller: Caller, params: UpdateConfig) -> dict[str, Any]:
    """Change the rules for uploads to come. Files that are there stay."""
    app = await deps.registry.get(caller, params.app_id)
    changes = params.model_dump(by_alias=True, exclude_none=True, exclude={"app_id"})
    if not changes:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "update_config needs at least one of publicReadEnabled, storageLimitBytes, maxFileSizeMb, "
            "maxBytesPerUser and allowedContentTypes.",
            remediation="Repeat manage_storage update_config with what is to change; the rest stays.",
        )
    most = deps.settings.storage_limit_mb * MB
    if (params.limit_bytes or 0) > most:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"storageLimitBytes may be at most {most} on this server.",
            remediation="Repeat manage_storage update_config with less; the operator sets BROLLY_STORAGE_LIMIT_MB.",
            details={"limit_bytes": most},
        )
    config = await deps.control.fetchval(
        "update brolly.apps set storage_config = storage_config || $2::jsonb, updated_at = now() where id = $1 "
        "returning storage_config::text",
        app.id,
        json.dumps(changes),
    )
    await deps.registry.changed(app.id)
    return {
        "message": "The rules hold for uploads from now on.",
        "app_id": app.id,
        "storage_config": json.loads(config),
    }
