"""A boto3 client as the S3 store needs it, and what its errors mean."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from boto3.session import Session  # pyright: ignore[reportMissingTypeStubs]
from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore[reportMissingTypeStubs]

from brolly.blob.store import missing, unavailable
from brolly.core.settings import Settings

log = logging.getLogger("brolly.blob")
GONE = ("NoSuchKey", "NotFound", "404", "NoSuchUpload")
CALLS = 32
"""Calls at the same time."""
_REFUSED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")


def make_client(settings: Settings, endpoint: str) -> Any:
    """A client of the endpoint; empty is Amazon's. Without keys, they come from where Amazon's tools look."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint and settings.s3_force_path_style else "virtual"},
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=CALLS,
        tcp_keepalive=True,
        # Checksums that only Amazon knows: other services refuse them, and URLs for browsers could not be used.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session: Any = Session()
    client = session.client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=endpoint or None,
        aws_access_key_id=settings.s3_access_key or None,
        aws_secret_access_key=settings.s3_secret_key or None,
        config=config,
    )
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_content_md5)
    return client


def _add_content_md5(request: Any, **_others: Any) -> None:
    # Asked for by services that do not know the newer checksum which botocore sends in its place.
    if "Content-MD5" not in request.headers and isinstance(request.body, bytes):
        digest = hashlib.md5(request.body, usedforsecurity=False).digest()
        request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def code_of(error: ClientError) -> str:
    """The service's word for what was wrong."""
    response: Any = error.response  # pyright: ignore[reportUnknownMemberType]
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(key: str) -> Generator[None]:
    """Failures as this product's errors."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in GONE:
            raise missing(key) from None
        log.error("object store: %s", error)
        why = "it refuses the server's access key" if code in _REFUSED else f"it answered {code}"
        raise unavailable(why) from error
    except (BotoCoreError, OSError) as error:
        log.error("object store: %s", error)
        raise unavailable("it does not answer") from error
