"""Names in documents, and texts of Postgres that are accepted as they stand."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import AfterValidator, ValidationInfo

from brolly.schema.defaults import Default, parse_default


@dataclass(frozen=True, slots=True)
class Known:
    """What an app has that documents cannot express, as Postgres prints it. Such a text is accepted
    as it stands, so that what was read can be applied again."""

    types: Set[str] = frozenset()
    defaults: Set[str] = frozenset()


def known(info: ValidationInfo) -> Known:
    """What the app has, from the context of the validation."""
    return cast(Known, info.context) if info.context else Known()


_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_MAX_NAME = 63  # bytes; Postgres would cut a longer one without a word


def check_name(name: str) -> str:
    """The name, if it is one that needs no care anywhere."""
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
        hint = f"; did you mean {near}?" if near and _NAME.fullmatch(near) else ""
        raise ValueError(f"{name!r} is not a name: lower-case letters, digits and _, not starting with a digit{hint}")
    if len(name) > _MAX_NAME:
        raise ValueError(f"the name has {len(name)} characters, {_MAX_NAME} are allowed")
    return name


Name = Annotated[str, AfterValidator(check_name)]


def read_default(value: Any, info: ValidationInfo) -> Any:
    """The default that was written as a text, number or truth value."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int | float):
        value = repr(value)
    elif isinstance(value, dict | list):
        raise ValueError("write a JSON default as SQL in single quotes, for example \"'{}'::jsonb\"")
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be a text with a literal or a function call")
    if value in known(info).defaults:
        return Default(value, value)
    return parse_default(value)
