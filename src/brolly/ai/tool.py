"""manage_ai."""

from brolly.ai import config, service, spending
from brolly.core.tool import READ, Action, AppParams, Tool

MANAGE_AI = Tool(
    "manage_ai",
    "AI",
    "Chat and embeddings by models.",
    {
        "chat": Action(
            service.tool_chat, service.Chat, idempotent=False, event="ai.chat", verb="create", untrusted=True
        ),
        "embed": Action(service.tool_embed, service.Embed, event="ai.embed", verb="create"),
        "list_models": Action(service.tool_models, AppParams, effect=READ, untrusted=True),
        "get_config": Action(config.get_config, AppParams, effect=READ),
        "update_config": Action(config.update_config, config.UpdateConfig, event="app.config.ai"),
        "get_usage": Action(spending.get_usage, spending.GetUsage, effect=READ),
    },
    resource="ai",
)
