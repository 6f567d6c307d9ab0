"""What HTTP wants beside an MCP message, and how it sends streams of them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import Any, cast

Message = dict[str, Any]

_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
# Methods whose Mcp-Name header repeats a parameter.
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_ENCODED = re.compile(r"=\?base64\?.*\?=")


def params_of(message: Message) -> Mapping[str, Any]:
    """The parameters, empty when there are none."""
    params = message.get("params")
    return cast(Message, params) if isinstance(params, dict) else {}


def own_version(message: Message) -> str:
    """The protocol version that a message of the stateless versions names itself; else empty."""
    meta: Any = params_of(message).get("_meta")
    version: Any = cast(Message, meta).get(_VERSION_KEY) if isinstance(meta, dict) else None
    return version if isinstance(version, str) else ""


def headers_of(message: Message, negotiated: str) -> dict[str, str]:
    """The headers for a message; ``negotiated`` is the version that a handshake agreed on."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    method = str(message.get("method"))
    if version := own_version(message):
        headers["MCP-Protocol-Version"] = header_value(version)
        headers["Mcp-Method"] = header_value(method)
        name = params_of(message).get(_NAMED.get(method, ""))
        if isinstance(name, str):
            headers["Mcp-Name"] = header_value(name)
    elif negotiated and method != "initialize":
        headers["MCP-Protocol-Version"] = negotiated
    return headers


def header_value(text: str) -> str:
    """Text as a header's value: as it is, or in base64 where HTTP would not keep it."""
    if _PLAIN.fullmatch(text) and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'replace')).decode()}?="


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The data of each event. By bytes, as JSON text may hold characters that count as line ends elsewhere."""
    rest, data = b"", list[bytes]()
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in (each.removesuffix(b"\r") for each in lines):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                if any(data):
                    yield b"\n".join(data)
                data.clear()
