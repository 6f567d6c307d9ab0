"""submit_suggestion."""

from brolly.core.tool import Action, Tool
from brolly.suggestions import service

SUBMIT_SUGGESTION = Tool(
    "submit_suggestion",
    "Suggest",
    "Report a bug or wish to the operator; recent calls go along.",
    {"": Action(service.submit, service.Submit, idempotent=False, event="suggestion.create", verb="create")},
    resource="suggestion",
)
