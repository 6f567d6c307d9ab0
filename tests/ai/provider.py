"""A model provider on loopback, in a process of its own: OpenAI's, Anthropic's and Google's protocols, byte for byte.

The words of the last user message choose what it does: ``say WORDS``, ``tools``, ``status 429 WAIT TIMES``, ``html``,
``cut`` (without its end), ``long`` (at its limit), ``slow SECONDS`` (between two parts), ``error`` (in mid-stream),
``silent`` (nothing at all), ``nousage``, ``wrongtype``.
What it was sent, and what became of it, is read at ``GET /seen``.

Usage: provider.py [PORT]. Prints the port once it listens.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

SEEN: list[dict[str, Any]] = []
TRIES: dict[str, int] = {}
KEY = "key-of-the-stand-in-1234"
CALLS = [("call_a", "get_weather", {"city": "Kyiv"}), ("call_b", "get_weather", {"city": 'Łódź \u2028 "1"'})]
PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


class Client:
    """One connection: answers with exact bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return method, path, headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def begin(self, kind: str = "text/event-stream; charset=utf-8") -> None:
        self.writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await self.writer.drain()

    async def piece(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        await self.piece(b"")


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def words_of(body: dict[str, Any]) -> str:
    """The last thing that the user said, in whichever protocol."""
    turns = body.get("messages") or body.get("contents") or [{}]
    content = next((t.get("content") or t.get("parts") for t in reversed(turns) if t.get("role") in (None, "user")), "")
    text = content if isinstance(content, str) else " ".join(part["text"] for part in content or [] if part.get("text"))
    # Of a question about passages, the question.
    return text.rpartition("\n\nQuestion: ")[2]


# --- what each protocol says ------------------------------------------------------------------------------


def openai_answer(words: list[str], tools: bool, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None if tools else "".join(words), "refusal": None}
    if tools:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": n, "arguments": compact(a)}} for i, n, a in CALLS
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if tools else "stop"}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": model, "choices": [choice],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
                  "prompt_tokens_details": {"cached_tokens": 3}},
    }  # fmt: skip


def openai_events(words: list[str], tools: bool, model: str, usage: bool) -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}

    made = [chunk({"role": "assistant", "content": ""})]
    if tools:
        for at, (call_id, name, arguments) in enumerate(CALLS):
            function = {"name": name, "arguments": ""}
            made.append(chunk({"tool_calls": [{"index": at, "id": call_id, "type": "function", "function": function}]}))
            text = compact(arguments)
            for part in (text[:5], text[5:]):
                made.append(chunk({"tool_calls": [{"index": at, "function": {"arguments": part}}]}))
    else:
        made += [chunk({"content": word}) for word in words]
    made.append(chunk({}, "tool_calls" if tools else "stop"))
    if usage:
        made.append({**head, "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
    return [f"data: {compact(one)}\n\n".encode() for one in made] + [b"data: [DONE]\n\n"]


def anthropic_answer(words: list[str], tools: bool, model: str) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "".join(words)}]
    if tools:
        blocks += [{"type": "tool_use", "id": i, "name": n, "input": a} for i, n, a in CALLS]
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": blocks,
        "stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3,
                  "output_tokens": 7},
    }  # fmt: skip


def anthropic_events(words: list[str], tools: bool, model: str) -> list[bytes]:
    start = {**anthropic_answer(words, False, model), "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words
    ]
    events.append({"type": "content_block_stop", "index": 0})
    for at, (call_id, name, arguments) in enumerate(CALLS if tools else [], 1):
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        events.append({"type": "content_block_start", "index": at, "content_block": block})
        text = compact(arguments)
        events += [
            {"type": "content_block_delta", "index": at, "delta": {"type": "input_json_delta", "partial_json": part}}
            for part in ("", text[:5], text[5:])
        ]
        events.append({"type": "content_block_stop", "index": at})
    reason = "tool_use" if tools else "end_turn"
    events.append({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None},
                   "usage": {"output_tokens": 7}})  # fmt: skip
    events.append({"type": "message_stop"})
    return [f"event: {one['type']}\ndata: {compact(one)}\n\n".encode() for one in events]


def google_answer(words: list[str], tools: bool, model: str, finish: str | None = "STOP") -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": "".join(words)}] if words else []
    if tools:
        parts = [{"functionCall": {"name": n, "args": a}} for _, n, a in CALLS]
        parts[0]["thoughtSignature"] = "c2lnbmVk"
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate], "modelVersion": model, "responseId": "resp_1",
        "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 5, "thoughtsTokenCount": 2,
                          "totalTokenCount": 18},
    }  # fmt: skip


def google_events(words: list[str], tools: bool, model: str) -> list[bytes]:
    made = [google_answer([word], False, model, None) for word in words] if not tools else []
    made.append(google_answer([], tools, model))
    return [f"data: {compact(one)}\r\n\r\n".encode() for one in made]


ERRORS = {
    "openai": lambda s: {"error": {"message": f"openai says {s}", "type": "t", "param": None, "code": "c"}},
    "anthropic": lambda s: {"type": "error", "error": {"type": "overloaded_error", "message": f"anthropic says {s}"}},
    "google": lambda s: {"error": {"code": s, "message": f"google says {s}", "status": "UNAVAILABLE"}},
}


# --- the server -------------------------------------------------------------------------------------------


def protocol_of(path: str, headers: dict[str, str]) -> str:
    if "x-api-key" in headers:
        return "anthropic"
    return "google" if "x-goog-api-key" in headers else "openai"


def key_of(headers: dict[str, str]) -> str:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    return headers.get("x-api-key") or headers.get("x-goog-api-key") or bearer


async def serve(client: Client, method: str, path: str, headers: dict[str, str], raw: bytes) -> None:
    if path == "/seen":
        await client.send(200, compact(SEEN).encode())
        return
    protocol = protocol_of(path, headers)
    seen: dict[str, Any] = {"path": path, "headers": headers, "protocol": protocol, "ended": None}
    SEEN.append(seen)
    if key_of(headers) != KEY:
        said = {"error": {"message": f"Incorrect API key provided: {key_of(headers)}"}}
        await client.send(401, compact(said).encode())
    elif method == "GET":
        await client.send(200, compact(models(protocol)).encode())
    else:
        seen["body"] = body = json.loads(raw)
        if "embed" in path.lower():
            await embed(client, protocol, body)
        else:
            await chat(client, seen, protocol, body)


def models(protocol: str) -> dict[str, Any]:
    if protocol == "google":
        return {"models": [{"name": "models/gemini-2.5-flash"}, {"name": "models/gemini-embedding-001"}]}
    names = ["claude-haiku-4-5"] if protocol == "anthropic" else ["gpt-5-mini", "text-embedding-3-small"]
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}


async def embed(client: Client, protocol: str, body: dict[str, Any]) -> None:
    texts = body.get("input") or [one["content"]["parts"][0]["text"] for one in body["requests"]]
    size = 3 if "ragged" in texts[-1] else 4
    rows = [[float(len(text)), 1.0, 0.0, 0.5] for text in texts[:-1]] + [[float(len(texts[-1]))] * size]
    if "missing" in texts[-1]:
        rows = rows[:-1]
    if protocol == "google":
        await client.send(200, compact({"embeddings": [{"values": row} for row in rows]}).encode())
        return
    # Out of order, as the index allows.
    data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)][::-1]
    usage = {"prompt_tokens": 2 * len(texts), "total_tokens": 2 * len(texts)}
    await client.send(200, compact({"object": "list", "data": data, "model": body["model"], "usage": usage}).encode())


async def chat(client: Client, seen: dict[str, Any], protocol: str, body: dict[str, Any]) -> None:
    said = words_of(body)
    order, *rest = said.split() or ["say"]
    stream = bool(body.get("stream")) or "streamGenerateContent" in seen["path"]
    model = body.get("model") or seen["path"].split("/models/")[-1].split(":")[0]
    if order == "status":
        status, wait, times = int(rest[0]), rest[1], int(rest[2])
        TRIES[said] = TRIES.get(said, 0) + 1
        if TRIES[said] <= times:
            headers = {} if wait == "-" else {"retry_after": wait}
            await client.send(status, compact(ERRORS[protocol](status)).encode(), **headers)
            return
    if order == "html":
        await client.send(200, PAGE, "text/html")
    elif order == "wrongtype":
        await client.send(200, b"[1, 2", "application/json")
    elif order == "silent":
        await client.reader.read()
        seen["ended"] = "client left"
    elif stream:
        await send_stream(client, seen, protocol, (order, rest, model), body)
    else:
        tools, words = order == "tools", [word + " " for word in rest] or ["Hello"]
        make = {"openai": openai_answer, "anthropic": anthropic_answer, "google": google_answer}[protocol]
        answer = make(words, tools, model)
        if order == "nousage":
            answer.pop("usage", None)
        if order == "long" and protocol == "openai":
            answer["choices"][0]["finish_reason"] = "length"
        data = json.dumps(answer).encode()
        if order == "cut":
            client.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data[:40]))
            client.writer.close()
            return
        await client.send(200, data)
        seen["ended"] = "sent"


async def send_stream(
    client: Client, seen: dict[str, Any], protocol: str, what: tuple[str, list[str], str], body: dict[str, Any]
) -> None:
    order, rest, model = what
    tools, words = order == "tools", [word + " " for word in rest] or ["Hello", " world"]
    if protocol == "openai":
        asked = bool(body.get("stream_options", {}).get("include_usage")) and order != "nousage"
        events = openai_events(words, tools, model, asked)
    else:
        events = {"anthropic": anthropic_events, "google": google_events}[protocol](words, tools, model)
    await client.begin()
    if order == "error":
        events = [*events[:3], f"event: error\ndata: {compact(ERRORS[protocol](529))}\n\n".encode()]
    if order == "cut":
        # In the middle of a character, and of an event.
        events = [*events[:3], events[3][: len(events[3]) // 2]]
    for event in events:
        if order == "slow":
            await asyncio.sleep(float(rest[0]))
            if client.reader.at_eof():
                seen["ended"] = "client left"
                return
        # Pieces end anywhere.
        await client.piece(event[:7])
        await client.piece(event[7:])
    if order == "cut":
        client.writer.close()
        return
    await client.end()
    seen["ended"] = "sent"


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    client = Client(reader, writer)
    try:
        while (request := await client.request()) is not None:
            await serve(client, *request)
    except (ConnectionError, asyncio.IncompleteReadError):
        if SEEN:
            SEEN[-1]["ended"] = SEEN[-1]["ended"] or "client left"
    finally:
        writer.close()


async def main(port: int = 0) -> None:
    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=64 * 1024 * 1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
