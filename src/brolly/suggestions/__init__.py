"""Suggestions: what agents and people report or wish for."""

from brolly.core.slice import Slice
from brolly.suggestions.tool import SUBMIT_SUGGESTION

SLICE = Slice("suggestions", tools=(SUBMIT_SUGGESTION,))
