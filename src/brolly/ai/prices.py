"""What calls cost: by the owner's prices, else by the list that genai-prices carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from brolly.ai.config import AiConfig
from brolly.ai.providers import Provider

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. ``prompt`` has those of the cache in it, ``completion`` those of reasoning.

    ``cost`` is set where the provider itself says what it charged; ``estimated`` where it told no tokens.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0
    cost: Decimal | None = None
    estimated: bool = False

    def openai(self) -> dict[str, Any]:
        """As OpenAI's answers have it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


def cost_of(provider: Provider, model: str, usage: Usage, config: AiConfig) -> Decimal | None:
    """Dollars; None when nobody knows the price."""
    own = _own_price(provider, model, config)
    if own is not None:
        per_input, per_output = (Decimal(str(own.get(name, 0))) for name in ("input", "output"))
        return (per_input * usage.prompt + per_output * usage.completion) / _MILLION
    if usage.cost is not None:
        return usage.cost
    if provider.prices:
        return _listed(provider.prices, model, usage.prompt, usage.completion, usage.cached, usage.cache_written)
    return Decimal(0) if provider.near else None


def _own_price(provider: Provider, model: str, config: AiConfig) -> Mapping[str, float] | None:
    prices = config.prices or {}
    return prices.get(f"{provider.name}/{model}") or prices.get(model)


@lru_cache(maxsize=2048)
def _listed(prices: str, model: str, prompt: int, completion: int, cached: int, cache_written: int) -> Decimal | None:
    usage = PricedUsage(
        input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached, cache_write_tokens=cache_written
    )
    try:
        return calc_price(usage, model, provider_id=prices).total_price
    except (LookupError, ValueError):
        return None


def facts_of(prices: str, model: str) -> dict[str, Any]:
    """Context window and prices for a million tokens, as far as the list has them."""
    try:
        found = calc_price(PricedUsage(input_tokens=0, output_tokens=0), model, provider_id=prices).model
    except (LookupError, ValueError):
        return {}
    # Of a thousand: long requests have other prices with some.
    one_in = _listed(prices, model, 1000, 0, 0, 0)
    one_out = _listed(prices, model, 0, 1000, 0, 0)
    return {
        "name": found.name or found.id,
        "context_window": found.context_window,
        "input": None if one_in is None else float(one_in * 1000),
        "output": None if one_out is None else float(one_out * 1000),
    }
