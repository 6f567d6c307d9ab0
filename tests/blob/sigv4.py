"""A gate that lets a request pass to an S3 service only with a valid AWS Signature Version 4.

The service of the tests (moto) takes any signature. The rules here are those of Amazon's documentation, written
without botocore, so that what the product signs is judged by something else: header and query signatures, expiry,
every signed header present with its signed value, the body's digest and the declared checksums.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

import httpx
from starlette.requests import Request
from starlette.responses import Response

ACCESS_KEY = "AKIDBROLLYTESTS00001"
SECRET_KEY = "brolly-tests-secret-key-0123456789abcdef"
_SAFE = "-_.~"


class RefusedError(Exception):
    """The code and status that Amazon answers."""

    def __init__(self, code: str, status: int = 403) -> None:
        super().__init__(code)
        self.code, self.status = code, status


@dataclass(frozen=True)
class Signature:
    """What a request says of its own signature."""

    scope: str
    moment: str
    headers: list[str]
    digest: str
    payload: str


def _encode(text: str) -> str:
    return quote(text, safe=_SAFE)


def _query(raw: str) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for pair in raw.split("&") if pair)
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


def _read(query: Mapping[str, str], headers: Mapping[str, str]) -> Signature:
    if "X-Amz-Signature" in query:
        if query.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
            raise RefusedError("AuthorizationQueryParametersError", 400)
        seconds = int(query["X-Amz-Expires"])
        made = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if not 0 < seconds <= 604_800 or datetime.now(UTC) > made + timedelta(seconds=seconds):
            raise RefusedError("AccessDenied")
        access_key, _, scope = query["X-Amz-Credential"].partition("/")
        signed = query["X-Amz-SignedHeaders"].split(";")
        found = Signature(scope, query["X-Amz-Date"], signed, query["X-Amz-Signature"], "UNSIGNED-PAYLOAD")
    else:
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\S+), SignedHeaders=(\S+), Signature=(\w+)",
            headers.get("authorization", ""),
        )
        if match is None:
            raise RefusedError("AccessDenied")
        access_key, scope, names, digest = match.groups()
        payload = headers["x-amz-content-sha256"]
        found = Signature(scope, headers["x-amz-date"], names.split(";"), digest, payload)
    if access_key != ACCESS_KEY:
        raise RefusedError("InvalidAccessKeyId")
    return found


def _verify(method: str, path: str, raw_query: str, headers: Mapping[str, str]) -> Signature:
    pairs = _query(raw_query)
    found = _read(dict(pairs), headers)
    if not {"host"} <= set(found.headers) or any(name not in headers for name in found.headers):
        raise RefusedError("SignatureDoesNotMatch")
    needed = [name for name in headers if name == "content-md5" or name.startswith("x-amz-")]
    if set(needed) - set(found.headers):
        raise RefusedError("AccessDenied")
    canonical = "\n".join(
        (
            method,
            quote(unquote(path), safe="/" + _SAFE),
            "&".join(sorted(f"{_encode(n)}={_encode(v)}" for n, v in pairs if n != "X-Amz-Signature")),
            "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in found.headers),
            ";".join(found.headers),
            found.payload,
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", found.moment, found.scope, digest))
    key = f"AWS4{SECRET_KEY}".encode()
    for step in found.scope.split("/"):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), found.digest):
        raise RefusedError("SignatureDoesNotMatch")
    return found


def _check_body(found: Signature, headers: Mapping[str, str], body: bytes) -> None:
    sha256 = hashlib.sha256(body)
    if found.payload != "UNSIGNED-PAYLOAD" and found.payload != sha256.hexdigest():
        raise RefusedError("XAmzContentSHA256Mismatch", 400)
    declared = headers.get("x-amz-checksum-sha256")
    if declared is not None and base64.b64decode(declared) != sha256.digest():
        raise RefusedError("BadDigest", 400)
    md5 = headers.get("content-md5")
    if md5 is not None and base64.b64decode(md5) != hashlib.md5(body).digest():
        raise RefusedError("BadDigest", 400)


class Gate:
    """Judges each request and passes it on to the service behind."""

    def __init__(self, service: httpx.AsyncClient) -> None:
        self.service = service

    async def pass_on(self, request: Request) -> Response:
        """The service's answer, or the refusal."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        raw_path, raw_query = request.scope["raw_path"].decode(), request.scope["query_string"].decode()
        try:
            found = _verify(request.method, raw_path, raw_query, headers)
            body = await request.body()
            _check_body(found, headers, body)
        except RefusedError as refused:
            xml = f"<Error><Code>{refused.code}</Code><Message>Refused.</Message></Error>"
            return Response(xml, refused.status, media_type="application/xml", headers={"Connection": "close"})
        passed = [(name, value) for name, value in request.headers.items() if name != "transfer-encoding"]
        # The service would take the query's parameters of the signature for its own.
        url = f"{raw_path}?{raw_query}" if raw_query else raw_path
        answer = await self.service.request(request.method, url, headers=passed, content=body)
        if answer.status_code == 500 and "uploadId=" in raw_query:
            # moto 5.2 fails over an upload that it does not know; the API has a word for that.
            return Response("<Error><Code>NoSuchUpload</Code></Error>", 404, media_type="application/xml")
        kept = {n: v for n, v in answer.headers.items() if n.lower() not in ("connection", "date", "server")}
        return Response(answer.content, answer.status_code, headers=kept)
