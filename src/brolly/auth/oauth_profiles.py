"""Who somebody is at a provider, read from what that provider answers. Nothing in there is believed to have a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, cast

from brolly.auth.addresses import is_placeholder, normal_address, placeholder_domain
from brolly.core.errors import AppError

Answer = Mapping[str, Any]
_LONGEST_UID = 255
_LONGEST_NAME = 200
_LONGEST_URL = 2000


@dataclass(frozen=True, slots=True)
class Profile:
    """A person as the provider tells. ``email`` in its normal form, None where there is none that can be used;
    ``verified`` only where the provider says that it is this person's; ``handle`` stands in for a missing address.
    """

    uid: str
    email: str | None
    verified: bool
    name: str | None = None
    avatar_url: str | None = None
    handle: str | None = None

    def addresses(self, provider: str) -> list[str]:
        """What the account may be called when there is no address of its own: the first that is free."""
        domain = placeholder_domain(provider)
        named = [self.handle] if self.handle and _plain(self.handle) else []
        own = self.uid if _plain(self.uid) else sha256(self.uid.encode()).hexdigest()[:32]
        return [f"{local.lower()}@{domain}" for local in (*named, own)]


def _plain(text: str) -> bool:
    return len(text) <= 60 and text.isascii() and text.replace("_", "").replace("-", "").isalnum()


def text_of(value: Any, longest: int = _LONGEST_NAME) -> str | None:
    """The text without what cannot be stored or shown, cut to length; None for what is no text."""
    if not isinstance(value, str):
        return None
    kept = "".join(c for c in value.strip()[: longest * 2] if c.isprintable())[:longest]
    return kept or None


def uid_of(value: Any) -> str:
    """The provider's id of the person. Raises when there is none: without it nobody can be told from another."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_UID or not value.isprintable():
        raise AppError("OAUTH_PROVIDER_ERROR", "The provider did not say who signed in.")
    return value


def email_of(value: Any) -> str | None:
    """The address in its normal form; None for what is none, or only stands in for one.

    A letter that folds into another (U+212A into k) makes another mailbox for the provider, who vouched for that one.
    """
    if not isinstance(value, str):
        return None
    try:
        address = normal_address(value)
    except AppError:
        return None
    same = all(c.isascii() or c in address for c in value.strip())
    return address if same and not is_placeholder(address) else None


def _picture(value: Any) -> str | None:
    url = text_of(value, _LONGEST_URL)
    return url if url is not None and url.startswith("https://") else None


def is_true(value: Any) -> bool:
    """Whether a claim says yes; some providers write booleans as text, Microsoft as a number."""
    return value is True or value in ("true", "True", "1") or (isinstance(value, int) and value == 1)


def _profile(uid: Any, email: Any, verified: Any, name: Any, picture: Any) -> Profile:
    address = email_of(email)
    return Profile(
        uid=uid_of(uid),
        email=address,
        verified=address is not None and is_true(verified),
        name=text_of(name),
        avatar_url=_picture(picture),
    )


def read_claims(answer: Answer) -> Profile:
    """OpenID Connect's standard claims."""
    return _profile(
        answer.get("sub"),
        answer.get("email"),
        answer.get("email_verified"),
        answer.get("name") or answer.get("preferred_username"),
        answer.get("picture"),
    )


def read_microsoft(answer: Answer) -> Profile:
    """The address is whatever a tenant's administrator wrote, unless ``xms_edov`` says that its domain is theirs."""
    return _profile(answer.get("sub"), answer.get("email"), answer.get("xms_edov"), answer.get("name"), None)


def read_github(answer: Answer) -> Profile:
    """The address comes from the list of addresses (see ``github_address``), not from the public profile."""
    name = answer.get("name") or answer.get("login")
    return _profile(answer.get("id"), None, False, name, answer.get("avatar_url"))


def github_address(answer: Any) -> str | None:
    """The primary address, if it is verified, else another verified one."""
    entries = cast(list[Any], answer) if isinstance(answer, list) else []
    addresses = [cast(Answer, e) for e in entries if isinstance(e, Mapping)]
    verified = [e for e in addresses if e.get("verified") is True]
    verified.sort(key=lambda e: e.get("primary") is not True)
    return next((address for e in verified if (address := email_of(e.get("email")))), None)


def read_discord(answer: Answer) -> Profile:
    """Discord's user object."""
    uid, picture = answer.get("id"), answer.get("avatar")
    url = f"https://cdn.discordapp.com/avatars/{uid}/{picture}.png" if isinstance(picture, str) and picture else None
    name = answer.get("global_name") or answer.get("username")
    return _profile(uid, answer.get("email"), answer.get("verified"), name, url)


def read_facebook(answer: Answer) -> Profile:
    """Facebook gives an address, but does not say whether it was ever confirmed."""
    picture: Any = answer.get("picture")
    for key in ("data", "url"):
        picture = cast(Answer, picture).get(key) if isinstance(picture, Mapping) else None
    return _profile(answer.get("id"), answer.get("email"), False, answer.get("name"), picture)


def read_x(answer: Answer) -> Profile:
    """X has no address, unless the scope users.email was granted."""
    data: Any = answer.get("data")
    person: Answer = cast(Answer, data) if isinstance(data, Mapping) else {}
    email = person.get("confirmed_email")
    name = person.get("name") or person.get("username")
    found = _profile(person.get("id"), email, email is not None, name, person.get("profile_image_url"))
    return replace(found, handle=text_of(person.get("username")))


def read_custom(answer: Answer) -> Profile:
    """What providers without a standard mostly answer."""

    def first(*names: str) -> Any:
        return next((answer[name] for name in names if answer.get(name) is not None), None)

    return _profile(
        first("sub", "id", "user_id"),
        first("email"),
        first("email_verified", "verified_email"),
        first("name", "display_name", "login", "username"),
        first("picture", "avatar_url"),
    )
