"""The messages of a socket: what clients may send, what they are sent, and the codes with which a socket closes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator

from brolly.core.errors import AppError, error_body

UNSUPPORTED, POLICY, INTERNAL, TRY_LATER = 1003, 1008, 1011, 1013
SLOW_READER = 4008
"""The client read more slowly than there was to send: it connects again and subscribes with ``since``."""

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
LONGEST_NAME = 200
LONGEST_METADATA = 4096
LONGEST_PAYLOAD = 64 * 1024

Operation = Literal["INSERT", "UPDATE", "DELETE"]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Channel = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00-\x1f*%]+$")]
Ref = Annotated[str, Field(max_length=100)] | int | None


class Message(BaseModel):
    """A message from a client. ``ref`` comes back in the answer."""

    model_config = ConfigDict(extra="forbid")
    ref: Ref = None


class Subscribe(Message):
    """Changes of a table from now on, or from ``since`` on. ``id`` tells several subscriptions to it apart."""

    type: Literal["subscribe"]
    table: Annotated[str, Field(min_length=1, max_length=63)]
    filter: dict[str, JsonValue] | str | None = None
    events: list[Operation] | None = Field(None, min_length=1)
    since: Annotated[str, Field(max_length=20_000)] | None = None
    id: Name | None = None

    @field_validator("events", mode="before")
    @classmethod
    def _events(cls, value: Any) -> Any:
        """Names in any case; ``*`` stands for all."""
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list):
            return value
        names = [one.upper() if isinstance(one, str) else one for one in given]  # pyright: ignore[reportUnknownVariableType]
        return list(OPERATIONS) if names == ["*"] else names  # pyright: ignore[reportUnknownVariableType]


class Unsubscribe(Message):
    """No more changes of the table, or of its subscription with that ``id``."""

    type: Literal["unsubscribe"]
    table: Annotated[str, Field(min_length=1, max_length=63)]
    id: Name | None = None


class PresenceTrack(Message):
    """Be seen by all who track, in the app or in a channel that was joined."""

    type: Literal["presence_track", "presence_update"]
    metadata: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    channel: Channel | None = None


class PresenceUntrack(Message):
    """Be seen no more."""

    type: Literal["presence_untrack"]
    channel: Channel | None = None


class Event(Message):
    """Run the function whose websocket trigger has that event."""

    type: Literal["event"]
    event: Name
    payload: JsonValue = None


class Join(Message):
    """Hear what is sent in a channel."""

    type: Literal["join", "leave"]
    channel: Channel


class Broadcast(Message):
    """Send to all others in a channel."""

    type: Literal["broadcast"]
    channel: Channel
    event: Name | None = None
    payload: JsonValue = None
    ack: bool = False


class Refresh(Message):
    """Stay connected with a newer token of the same user."""

    type: Literal["refresh"]
    token: Annotated[str, Field(min_length=1, max_length=20_000)]


class Heartbeat(Message):
    """Ask whether the server is there; pages cannot send a ping."""

    type: Literal["heartbeat", "ping"]


Incoming = Annotated[
    Subscribe | Unsubscribe | PresenceTrack | PresenceUntrack | Event | Join | Broadcast | Refresh | Heartbeat,
    Field(discriminator="type"),
]
_INCOMING: TypeAdapter[Incoming] = TypeAdapter(Incoming)
_REMEDY = "Correct the message as it says; butterbase_docs with topic realtime has them all."


class MessageError(AppError):
    """A message that cannot be understood, with the ``ref`` that it had."""

    def __init__(self, message: str, ref: str | int | None = None) -> None:
        super().__init__("VALIDATION_INVALID_SCHEMA", message, remediation=_REMEDY)
        self.ref = ref


def parse(text: str) -> Incoming:
    """The message of a frame; raises ``MessageError`` with the words that clients know."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("Invalid JSON") from None
    if not isinstance(raw, dict):
        raise MessageError("Invalid JSON: a message is an object with a type.")
    found: dict[str, Any] = raw  # pyright: ignore[reportUnknownVariableType]
    if "\\u" in text and not _is_text(found):
        raise MessageError("Invalid JSON: half a surrogate pair is no text.")
    given = found.get("ref")
    ref = given if isinstance(given, str | int) and len(str(given)) <= 100 else None
    try:
        return _INCOMING.validate_python(found)
    except ValidationError as error:
        raise MessageError(_said(error, found), ref) from None
    except RecursionError:
        raise MessageError("Invalid JSON: it lies too deep.", ref) from None


def _is_text(found: Any) -> bool:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _said(error: ValidationError, raw: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"Unknown message type: {str(raw.get('type'))[:100]}"
    place = [str(part) for part in first["loc"][1:]]
    field = place[0] if place else ""
    if first["type"] == "missing" or (field in ("table", "event", "channel") and not raw.get(field)):
        return f'Missing "{field}" field'
    if first["type"] == "extra_forbidden":
        return f'Unknown field "{field[:100]}" in {raw["type"]}'
    return f'Bad "{field}" field: {first["msg"]}'


def error_message(error: AppError, base_url: str, ref: Ref = None) -> dict[str, Any]:
    """The one error shape as a message."""
    body: dict[str, Any] = {"type": "error", **error_body(error, base_url)["error"]}
    return with_ref(body, ref)


def with_ref(message: dict[str, Any], ref: Ref) -> dict[str, Any]:
    """The message with what the client gave to tell answers apart."""
    return message if ref is None else {**message, "ref": ref}
