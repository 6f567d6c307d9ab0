"""Google's Gemini API."""

from __future__ import annotations

import mimetypes
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

from brolly.ai.prices import Usage
from brolly.ai.providers import Provider
from brolly.ai.request import Body, picture_url
from brolly.ai.sse import Event
from brolly.ai.wire import (
    BrokenAnswer,
    Call,
    Chunks,
    Object,
    ProviderFailed,
    Vectors,
    arguments_of,
    completion,
    data_url,
    json_text,
    number,
    objects,
    parsed,
    schema_of,
    text_of,
)

_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "MALFORMED_FUNCTION_CALL": "stop", "OTHER": "stop"}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_SETTINGS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "n": "candidateCount",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_OLD = re.compile(r"gemini-(1|2)\.|gemma")
_NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google asks for where a call of an earlier turn has lost its signature."""


def _headers(provider: Provider) -> dict[str, str]:
    return {"x-goog-api-key": provider.key}


def _path(model: str, verb: str) -> str:
    return f"/models/{quote(model.removeprefix('models/'), safe='-._')}:{verb}"


class GoogleWire:
    """Turns are ``user`` and ``model``, tools are declared by JSON schema, calls come whole."""

    def chat(self, provider: Provider, model: str, body: Body, limit: int | None, stream: bool) -> Call:
        """The call for a chat request."""
        messages = objects(body.get("messages"))
        sent: Body = {"contents": _turns(messages, model)}
        system = "\n\n".join(text_of(m.get("content")) for m in messages if m["role"] in ("system", "developer"))
        if system:
            sent["systemInstruction"] = {"parts": [{"text": system}]}
        sent |= _tools(body)
        settings: Body = {theirs: body[ours] for ours, theirs in _SETTINGS.items() if body.get(ours) is not None}
        if limit is not None:
            settings["maxOutputTokens"] = limit
        stop: Any = body.get("stop")
        if stop:
            settings["stopSequences"] = [stop] if isinstance(stop, str) else stop
        form: Any = body.get("response_format") or {}
        if form.get("type") in ("json_object", "json_schema"):
            settings["responseMimeType"] = "application/json"
        schema = schema_of(body.get("response_format"))
        if schema is not None:
            settings["responseJsonSchema"] = schema
        if settings:
            sent["generationConfig"] = settings
        path = _path(model, "streamGenerateContent") + "?alt=sse" if stream else _path(model, "generateContent")
        return Call(path, sent, _headers(provider))

    def answer(self, data: Object, model: str) -> tuple[Object, Usage | None]:
        """The first candidate; a refused prompt is an answer without words."""
        candidates = objects(data.get("candidates"))
        if not candidates and not data.get("promptFeedback"):
            raise BrokenAnswer("there is no candidate in it")
        usage = _usage(data.get("usageMetadata"))
        made: Object | None = None
        for at, candidate in enumerate(candidates or [{"finishReason": "PROHIBITED_CONTENT"}]):
            message, finish = _message(candidate)
            if made is None:
                made = completion(str(data.get("responseId") or ""), model, message, finish, usage)
            else:
                made["choices"].append({"index": at, "message": message, "finish_reason": finish, "logprobs": None})
        return made or {}, usage

    def reader(self, model: str) -> GoogleReader:
        """A reader for a stream."""
        return GoogleReader(model)

    def embed(self, provider: Provider, model: str, texts: Sequence[str], dimensions: int | None) -> Call:
        """The call for embeddings."""
        size = {} if dimensions is None else {"outputDimensionality": dimensions}
        name = f"models/{model.removeprefix('models/')}"
        requests = [{"model": name, "content": {"parts": [{"text": text}]}, **size} for text in texts]
        return Call(_path(model, "batchEmbedContents"), {"requests": requests}, _headers(provider))

    def vectors(self, data: Object) -> Vectors:
        """The embeddings, which come in the order of the texts."""
        rows = [row.get("values") for row in objects(data.get("embeddings"))]
        if not all(isinstance(row, list) for row in rows):
            raise BrokenAnswer("an embedding is not a list of numbers")
        used: Any = data.get("usageMetadata") or {}
        return Vectors(
            [[float(one) for one in cast(list[Any], row)] for row in rows], number(used.get("promptTokenCount"))
        )

    def models(self, provider: Provider) -> tuple[str, Mapping[str, str]]:
        """Path and headers of the list of models."""
        return "/models?pageSize=1000", _headers(provider)

    def names(self, data: Object) -> list[str]:
        """The models' names, without what stands before each."""
        rows = objects(data.get("models"))
        return [row["name"].removeprefix("models/") for row in rows if isinstance(row.get("name"), str)]


def _turns(messages: list[Object], model: str) -> list[Object]:
    called: dict[str, str] = {}
    turns: list[Object] = []
    for message in messages:
        if message["role"] in ("system", "developer"):
            continue
        side = "model" if message["role"] == "assistant" else "user"
        parts = _parts(message, called, model)
        if not parts:
            continue
        if turns and turns[-1]["role"] == side:
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": side, "parts": parts})
    return turns


def _parts(message: Object, called: dict[str, str], model: str) -> list[Object]:
    content: Any = message.get("content")
    if message["role"] in ("tool", "function"):
        call_id = str(message.get("tool_call_id") or "")
        name = called.get(call_id) or str(message.get("name") or call_id)
        return [{"functionResponse": {"name": name, "response": _response(text_of(content))}}]
    given = [{"type": "text", "text": content}] if isinstance(content, str) else objects(content)
    parts = [part for one in given if (part := _part(one)) is not None]
    for at, call in enumerate(objects(message.get("tool_calls"))):
        function = cast(Object, call.get("function") or {})
        called[str(call.get("id"))] = str(function.get("name"))
        made: Object = {"functionCall": {"name": function.get("name"), "args": arguments_of(call)}}
        signature = _signature(call) or (_NO_SIGNATURE if at == 0 and not _OLD.match(model) else "")
        parts.append(made | ({"thoughtSignature": signature} if signature else {}))
    return parts


def _signature(call: Object) -> str:
    extra: Any = call.get("extra_content")
    google: Any = cast(Object, extra).get("google") if isinstance(extra, dict) else None
    signature: Any = cast(Object, google).get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _response(text: str) -> Object:
    """What a tool answered, as an object, which this API wants."""
    try:
        return parsed(text)
    except BrokenAnswer:
        return {"result": text}


def _part(part: Object) -> Object | None:
    if part.get("type") == "text":
        return {"text": part["text"]} if part["text"] else None
    url = picture_url(part)
    if part.get("type") == "file":
        given: Any = part.get("file") or {}
        url = str(given.get("file_data") or "")
    if not url:
        return None
    inline = data_url(url)
    if inline is not None:
        return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
    kind = mimetypes.guess_type(url.partition("?")[0])[0] or "image/jpeg"
    return {"fileData": {"mimeType": kind, "fileUri": url}}


def _tools(body: Body) -> Object:
    functions = [cast(Object, tool["function"]) for tool in objects(body.get("tools")) if tool.get("function")]
    if not functions:
        return {}
    declared = [
        {
            "name": function["name"],
            **({"description": function["description"]} if function.get("description") else {}),
            **({"parametersJsonSchema": function["parameters"]} if function.get("parameters") else {}),
        }
        for function in functions
    ]
    made: Object = {"tools": [{"functionDeclarations": declared}]}
    wanted: Any = body.get("tool_choice")
    if isinstance(wanted, str):
        made["toolConfig"] = {"functionCallingConfig": {"mode": _MODES.get(wanted, "AUTO")}}
    elif isinstance(wanted, dict):
        name: Any = cast(Object, wanted).get("function", {}).get("name")
        made["toolConfig"] = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}
    return made


def _usage(given: Any) -> Usage | None:
    if not isinstance(given, dict):
        return None
    usage = cast(Object, given)
    thought = number(usage.get("thoughtsTokenCount"))
    return Usage(
        prompt=number(usage.get("promptTokenCount")) + number(usage.get("toolUsePromptTokenCount")),
        completion=number(usage.get("candidatesTokenCount")) + thought,
        cached=number(usage.get("cachedContentTokenCount")),
        reasoning=thought,
    )


def _finish(reason: Any, calls: bool) -> str:
    finish = _FINISH.get(str(reason), "content_filter")
    return "tool_calls" if calls and finish == "stop" else finish


def _call(part: Object) -> Object:
    call = cast(Object, part["functionCall"])
    function = {"name": str(call.get("name")), "arguments": json_text(call.get("args") or {})}
    made: Object = {"id": call.get("id") or f"call_{secrets.token_hex(8)}", "type": "function", "function": function}
    if isinstance(part.get("thoughtSignature"), str):
        # As Google's own endpoint of OpenAI's form has it; a client sends it back with the call.
        made["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
    return made


def _parts_of(candidate: Object) -> list[Object]:
    content: Any = candidate.get("content") or {}
    return objects(cast(Object, content).get("parts")) if isinstance(content, dict) else []


def _message(candidate: Object) -> tuple[Object, str]:
    parts = _parts_of(candidate)
    text = "".join(str(part["text"]) for part in parts if "text" in part and not part.get("thought"))
    thought = "".join(str(part["text"]) for part in parts if "text" in part and part.get("thought"))
    calls = [_call(part) for part in parts if isinstance(part.get("functionCall"), dict)]
    message: Object = {"role": "assistant", "content": text or (None if calls else "")}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message, _finish(candidate.get("finishReason"), bool(calls))


class GoogleReader:
    """Each event is a whole small answer."""

    def __init__(self, model: str) -> None:
        self.usage: Usage | None = None
        self.done = False
        self._chunks = Chunks(model)
        self._began = False
        self._calls = 0

    def feed(self, event: Event) -> list[Object]:
        """The chunks of the event."""
        data = parsed(event.data)
        if data.get("error"):
            error: Any = data["error"]
            raise ProviderFailed(f"{error.get('status')}: {str(error.get('message'))[:300]}")
        self.usage = _usage(data.get("usageMetadata")) or self.usage
        feedback: Any = data.get("promptFeedback") or {}
        candidates = objects(data.get("candidates"))
        if not candidates and feedback.get("blockReason"):
            candidates = [{"finishReason": "PROHIBITED_CONTENT"}]
        made: list[Object] = []
        for candidate in candidates[:1]:
            made += self._candidate(candidate)
        return made

    def _candidate(self, candidate: Object) -> list[Object]:
        made: list[Object] = []
        if not self._began:
            self._began = True
            made.append(self._chunks.of({"role": "assistant", "content": ""}))
        for part in _parts_of(candidate):
            if isinstance(part.get("functionCall"), dict):
                made.append(self._chunks.of({"tool_calls": [{"index": self._calls, **_call(part)}]}))
                self._calls += 1
            elif part.get("text"):
                made.append(self._chunks.of({"reasoning_content" if part.get("thought") else "content": part["text"]}))
        if candidate.get("finishReason"):
            self.done = True
            made.append(self._chunks.of({}, _finish(candidate["finishReason"], self._calls > 0)))
        return made
