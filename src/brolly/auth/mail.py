"""Messages to users: written down first, then sent over SMTP, or left for the owner to read."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import anyio

from brolly.auth.access import users_of
from brolly.auth.codes import Kind, make_code
from brolly.core.settings import Settings
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App

log = logging.getLogger("brolly.auth")

KEPT_DAYS = 7
_SECONDS = 20
_PAUSES = (2, 10)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_WORDS: dict[str, tuple[str, str, str]] = {
    "verify_email": ("Confirm your e-mail address", "Your code to confirm this address", "24 hours"),
    "reset_password": ("Reset your password", "Your code to set a new password", "one hour"),
    "magic_link": ("Sign in", "Your code to sign in", "15 minutes"),
}


async def send_code(deps: Deps, app: App, connection: Connection, user: Any, kind: Kind) -> int:
    """Make a code of that kind and write the message that brings it; the message's id.

    It goes to the stored address, never to what somebody typed.
    """
    code, token = await make_code(deps, app, connection, user["id"], kind)
    subject, words, life = _WORDS[kind]
    body = (
        f"{words}: {code}\n\nFor a link, the same as a token: {token}\n\n"
        f"Good for {life}, once. If you did not ask for it, ignore this message.\n"
    )
    await connection.execute(
        "delete from auth.outbox where id in (select id from auth.outbox "
        "where created_at < now() - make_interval(days => $1) limit 10 for update skip locked)",
        KEPT_DAYS,
    )
    return await connection.fetchval(
        "insert into auth.outbox (kind, recipient, subject, body) values ($1, $2, $3, $4) returning id",
        kind,
        user["email"],
        f"{app.name}: {subject}",
        body,
    )


async def deliver(deps: Deps, app: App, ids: Sequence[int]) -> None:
    """Send the messages, trying again a few times. Without SMTP settings they stay in the outbox."""
    if not deps.settings.smtp_url:
        return
    for message_id in ids:
        async with users_of(deps, app) as connection:
            row = await connection.fetchrow(
                "select recipient, subject, body from auth.outbox where id = $1 and sent_at is null", message_id
            )
        if row is None:
            continue
        error = await _send(deps.settings, row)
        async with users_of(deps, app) as connection:
            # Codes of messages that arrived need not be readable here any more.
            await connection.execute(
                "update auth.outbox set error = $2, sent_at = case when $2::text is null then now() end, "
                "body = case when $2::text is not null then body end where id = $1",
                message_id,
                error,
            )


async def _send(settings: Settings, row: Any) -> str | None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.mail_from, row["recipient"], row["subject"]
    message.set_content(row["body"])
    error: Exception | None = None
    for pause in (0, *_PAUSES):
        await anyio.sleep(pause)
        try:
            await anyio.to_thread.run_sync(_transmit, settings.smtp_url, message)
            return None
        except (OSError, smtplib.SMTPException) as failure:
            error = failure
            if isinstance(failure, smtplib.SMTPRecipientsRefused | smtplib.SMTPAuthenticationError):
                break
    log.error("a message could not be sent: %s", type(error).__name__)
    return f"{type(error).__name__}: {error}"[:500]


def _transmit(address: str, message: EmailMessage) -> None:
    url = urlsplit(address)
    host, context = url.hostname or "", ssl.create_default_context()
    if url.scheme == "smtps":
        server = smtplib.SMTP_SSL(host, url.port or 465, timeout=_SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, url.port or 587, timeout=_SECONDS)
    with server:
        if url.scheme == "smtp" and host not in _LOOPBACK and parse_qs(url.query).get("tls") != ["off"]:
            # Required, not merely used when offered: somebody in between could take the offer away.
            server.starttls(context=context)
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        server.send_message(message)
