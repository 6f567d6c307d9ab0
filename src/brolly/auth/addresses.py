"""The one form in which e-mail addresses are stored, compared and written to."""

from __future__ import annotations

import re
import unicodedata

from brolly.core.errors import AppError

LONGEST = 254
_LOCAL = r"[^\s@<>()\[\],;:\\\"]{1,64}"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_ADDRESS = re.compile(rf"{_LOCAL}@{_LABEL}(?:\.{_LABEL})+")
_PLACEHOLDER = re.compile(r"@users\.noreply\.[^.@]+\.local$")


def normal_address(text: str) -> str:
    """Unicode NFKC and lower case, so that one mailbox is one account however it is typed.

    Mail goes to this form alone, never to the text that was sent: letters that only look
    alike (or fold together) must not lead a code for one account to another mailbox.
    """
    address = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.strip()).lower())
    invisible = any(unicodedata.category(c)[0] == "C" for c in address)
    if invisible or len(address) > LONGEST or not _ADDRESS.fullmatch(address) or _dots(address):
        raise AppError("VALIDATION_INVALID_SCHEMA", "email is not an e-mail address.", details={"field": "email"})
    return address


def mailbox(text: str) -> str:
    """As ``normal_address``, for what is typed to sign up or in: refuses what only stands in for an address."""
    address = normal_address(text)
    if is_placeholder(address):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "email stands in for the address of an account that has none.",
            remediation="Sign in through the provider of that account; manage_auth_users get shows which it is.",
            details={"field": "email"},
        )
    return address


def placeholder_domain(provider: str) -> str:
    """Where accounts of a provider that tells no address have theirs, as published clients know it."""
    return f"users.noreply.{provider.replace('_', '-')}.local"


def is_placeholder(address: str) -> bool:
    """Whether it stands in for an address; no mail goes there, and nobody can claim it."""
    return _PLACEHOLDER.search(address) is not None


def _dots(address: str) -> bool:
    local = address.rpartition("@")[0]
    return local.startswith(".") or local.endswith(".") or ".." in address
