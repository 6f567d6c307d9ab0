"""Who answers for models: the operator's providers, and the one whose key an app's owner gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from brolly.core.settings import Settings

Protocol = Literal["openai", "anthropic", "google"]


@dataclass(frozen=True, slots=True)
class Provider:
    """One service with models.

    ``owned`` marks the key of an app's owner, whose calls go to public addresses alone. ``takes_any`` is true of those
    that carry models of other providers under their names. ``prices`` is how the price list calls it; "" for one that
    it does not know, whose models cost nothing when it is ``near``, in the operator's own network.
    """

    name: str
    protocol: Protocol
    base_url: str
    key: str = field(default="", repr=False)
    owned: bool = False
    takes_any: bool = False
    prices: str = ""
    chat_model: str = ""
    embedding_model: str = ""

    @property
    def near(self) -> bool:
        """Whether it runs where the server does, as model servers on loopback do."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def _openai(name: str, base_url: str, chat: str = "", *, prices: str | None = None) -> Provider:
    return Provider(name, "openai", base_url, prices=name if prices is None else prices, chat_model=chat)


_KNOWN = (
    Provider(
        "openai",
        "openai",
        "https://api.openai.com/v1",
        prices="openai",
        chat_model="gpt-5-mini",
        embedding_model="text-embedding-3-small",
    ),
    Provider(
        "anthropic", "anthropic", "https://api.anthropic.com/v1", prices="anthropic", chat_model="claude-haiku-4-5"
    ),
    Provider(
        "google",
        "google",
        "https://generativelanguage.googleapis.com/v1beta",
        prices="google",
        chat_model="gemini-2.5-flash",
        embedding_model="gemini-embedding-001",
    ),
    Provider(
        "openrouter",
        "openai",
        "https://openrouter.ai/api/v1",
        takes_any=True,
        prices="openrouter",
        chat_model="anthropic/claude-haiku-4.5",
    ),
    _openai("groq", "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"),
    _openai("mistral", "https://api.mistral.ai/v1", "mistral-small-latest"),
    _openai("deepseek", "https://api.deepseek.com/v1", "deepseek-chat"),
    _openai("xai", "https://api.x.ai/v1", "grok-4-fast", prices="x-ai"),
    _openai("together", "https://api.together.xyz/v1"),
    _openai("fireworks", "https://api.fireworks.ai/inference/v1"),
    _openai("cerebras", "https://api.cerebras.ai/v1"),
    _openai("perplexity", "https://api.perplexity.ai", "sonar"),
    _openai("ollama", "http://127.0.0.1:11434/v1", prices=""),
    _openai("lmstudio", "http://127.0.0.1:1234/v1", prices=""),
    _openai("vllm", "http://127.0.0.1:8000/v1", prices=""),
    _openai("llamacpp", "http://127.0.0.1:8080/v1", prices=""),
)
KNOWN: Mapping[str, Provider] = {provider.name: provider for provider in _KNOWN}
_ALIASES = {"gemini": "google", "claude": "anthropic", "x-ai": "xai", "lm-studio": "lmstudio"}
_KEY_FORMS = {
    "sk-ant-": "anthropic",
    "sk-or-": "openrouter",
    "sk-": "openai",
    "AIza": "google",
    "gsk_": "groq",
    "xai-": "xai",
    "csk-": "cerebras",
    "pplx-": "perplexity",
    "fw_": "fireworks",
}


def canonical(name: str) -> str:
    """The name under which a provider is known here."""
    return _ALIASES.get(name, name)


def provider_of_key(key: str) -> str:
    """Whose key it is, by how it begins; "" when that does not tell."""
    return next((name for start, name in _KEY_FORMS.items() if key.startswith(start)), "")


def make_provider(name: str, *, key: str = "", address: str = "", owned: bool = False) -> Provider:
    """A provider known by its name, at another address if one is given; else one that speaks OpenAI's protocol."""
    name = canonical(name)
    known = KNOWN.get(name, Provider(name, "openai", ""))
    protocol, base_url = known.protocol, known.base_url
    if address:
        url = urlsplit(address)
        key = key or unquote(url.password or url.username or "")
        spoken, _, scheme = url.scheme.rpartition("+")
        protocol = cast(Protocol, spoken) if spoken else protocol
        base_url = urlunsplit((scheme, url.netloc.rpartition("@")[2], url.path.rstrip("/"), "", ""))
    return Provider(
        name=name,
        protocol=protocol,
        base_url=base_url,
        key=key,
        owned=owned,
        takes_any=known.takes_any,
        prices=known.prices,
        chat_model=known.chat_model,
        embedding_model=known.embedding_model,
    )


def platform_providers(settings: Settings) -> tuple[Provider, ...]:
    """The operator's providers, in the order of the setting."""
    found: dict[str, Provider] = {}
    for entry in settings.ai_providers:
        name, _, value = entry.partition("=")
        address = value if "://" in value else ""
        provider = make_provider(name, key="" if address else value, address=address)
        if provider.base_url:
            found[provider.name] = provider
    return tuple(found.values())
