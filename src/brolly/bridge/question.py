"""Questions to the person, for clients of the handshake era that can put them.

The server keeps no sessions, so it cannot ask such a client; and the client's model must not answer in the
person's place by sending ``confirm: true`` by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import anyio

from brolly.bridge.wire import Message, own_version, params_of
from brolly.core.errors import AppError

_FIRST_VERSION = "2025-06-18"  # the first that has elicitation
_FORM = {
    "type": "object",
    "properties": {"confirm": {"type": "boolean", "title": "Confirm", "description": "Go ahead?"}},
    "required": ["confirm"],
}


class _Open:
    """A question that waits for its answer."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: Message = {}


class Questions:
    """What this client can be asked, and the questions that it has not answered yet."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._declared = False
        self._count = 0
        self._open: dict[str, _Open] = {}

    def introduced(self, initialize: Message) -> None:
        """Learn from the handshake whether the client shows forms; ``{}`` means it does."""
        capabilities: Any = params_of(initialize).get("capabilities")
        can: Any = cast(Message, capabilities).get("elicitation") if isinstance(capabilities, dict) else None
        self._declared = isinstance(can, dict) and (not can or "form" in can)

    def concern(self, message: Message, negotiated: str) -> bool:
        """Whether we are the one to ask before this call loses something."""
        return (
            self._declared
            and message.get("method") == "tools/call"
            and not own_version(message)
            and (not negotiated or negotiated >= _FIRST_VERSION)
        )

    def take(self, message: Message) -> bool:
        """Whether the message answers a question of ours, which then goes on."""
        identity = message.get("id")
        waiting = self._open.get(identity) if isinstance(identity, str) and "method" not in message else None
        if waiting is None:
            return False
        waiting.answer = message
        waiting.answered.set()
        return True

    async def ask(self, question: str) -> None:
        """Return when the person agrees, else raise ``AppError``; when cancelled, take the question back."""
        self._count += 1
        identity = f"brolly-question-{self._count}"
        self._open[identity] = waiting = _Open()
        params = {"message": question, "requestedSchema": _FORM}
        self._send({"id": identity, "method": "elicitation/create", "params": params})
        try:
            await waiting.answered.wait()
        finally:
            del self._open[identity]
            if not waiting.answered.is_set():
                params = {"requestId": identity, "reason": "The call was cancelled."}
                self._send({"method": "notifications/cancelled", "params": params})
        _check(waiting.answer)


def _check(answer: Message) -> None:
    result: Any = answer.get("result")
    if not isinstance(result, dict):
        error: Any = answer.get("error")
        why = cast(Message, error).get("message") if isinstance(error, dict) else "no result"
        raise AppError(
            "CONFIRMATION_REQUIRED",
            f"The client could not ask the user ({why}), so nothing was changed.",
            remediation="Tell the user; brolly mcp asks through the client's elicitation, which must work first. "
            "manage_app list shows what exists.",
        )
    result = cast(Message, result)
    content: Any = result.get("content")
    if result.get("action") == "accept" and isinstance(content, dict) and cast(Message, content).get("confirm") is True:
        return
    raise AppError(
        "CONFIRMATION_REQUIRED",
        "The user did not agree, so nothing was changed.",
        remediation="Do not repeat the call unless the user asks for it; manage_app list shows what exists.",
    )


def question_in(answer: Message) -> str:
    """The question that a tool's answer says the person must be asked; empty when it says none."""
    try:
        result = answer["result"]
        [content] = result["content"]
        error = json.loads(content["text"])["error"]
        if result["isError"] is True and error["code"] == "CONFIRMATION_REQUIRED":
            return str(error["message"])
    except (KeyError, TypeError, ValueError):
        pass
    return ""


def with_confirm(message: Message, agreed: bool) -> bytes:
    """The call, with ``confirm: true`` if the person agreed and without any ``confirm`` if they were not asked."""
    params = dict(params_of(message))
    arguments: Any = params.get("arguments")
    if isinstance(arguments, dict):
        kept = {name: value for name, value in cast(Message, arguments).items() if name != "confirm"}
        params["arguments"] = kept | ({"confirm": True} if agreed else {})
    return json.dumps({**message, "params": params}).encode()
