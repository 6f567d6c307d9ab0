"""What goes wrong between a program and this server, in the words of OAuth."""

from __future__ import annotations


class OAuthError(Exception):
    """An error of RFC 6749 and its kin: its code, what a person reads of it, and the HTTP status."""

    def __init__(self, code: str, description: str, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.status = status
        self.retry_after = retry_after
