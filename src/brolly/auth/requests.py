"""Bodies of the sign-in routes as parameters, whichever spelling a client uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from brolly.core.errors import AppError
from brolly.core.tool import AppParams

P = TypeVar("P", bound=AppParams)

_OTHER_SPELLINGS = {
    "refreshToken": "refresh_token",
    "displayName": "display_name",
    "newPassword": "new_password",
    "mfaToken": "mfa_token",
}


def read_body(model: type[P], app_id: str, body: Mapping[str, Any]) -> P:
    """The body as the model. What is wrong is said without repeating a value, which may be a password."""
    values: dict[str, Any] = {_OTHER_SPELLINGS.get(k, k): v for k, v in body.items() if v is not None}
    if "app_id" in values:
        raise AppError("VALIDATION_INVALID_SCHEMA", "app_id belongs in the path only.")
    try:
        # Half of a surrogate pair is JSON, but no text that can be hashed or stored.
        json.dumps(values, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        what = "Invalid request body: it holds half a character, or is nested too deeply."
        raise AppError("VALIDATION_INVALID_SCHEMA", what) from None
    try:
        return model.model_validate({**values, "app_id": app_id})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    missing = any(e["type"] == "missing" for e in found)
    issues = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in found]
    raise AppError(
        "VALIDATION_MISSING_FIELD" if missing else "VALIDATION_INVALID_SCHEMA",
        f"Invalid request body: {'; '.join(issues)}.",
        details=issues,
    )
