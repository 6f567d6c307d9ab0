"""Who tries: two users, nobody, and a service key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brolly.core.caller import Caller


@dataclass(frozen=True)
class Who:
    """A caller by name. ``id`` is a user's id, else None."""

    name: Literal["A", "B", "anonymous", "service"]
    id: str | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def is_user(self) -> bool:
        return self.id is not None

    @property
    def is_service(self) -> bool:
        return self.name == "service"

    def as_caller(self, owner: Caller) -> Caller:
        """The kernel's caller for it; ``owner`` has the service key."""
        if self.is_service:
            return owner
        return owner.simulate("user", self.id) if self.id else owner.simulate("anon", None)


ANYBODY, SERVICE = Who("anonymous"), Who("service")
UUIDS = (
    Who("A", "aaaaaaaa-0000-4000-8000-00000000000a"),
    Who("B", "bbbbbbbb-0000-4000-8000-00000000000b"),
)
# Ids from elsewhere, such as a text column may hold: none may break out of its quotes.
TEXTS = (Who("A", "auth0|a' or '1'='1"), Who("B", 'b"; set role butterbase_service; --\\'))
