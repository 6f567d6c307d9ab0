"""The model gateway: chat and embeddings for apps, by the providers there are, and a local model without any."""

from brolly.ai.bodies import workers
from brolly.ai.embedding import embed_texts
from brolly.ai.routes import routes
from brolly.ai.service import app_chat, app_embed, complete_chat, open_chat
from brolly.ai.tool import MANAGE_AI
from brolly.core.slice import Slice

SLICE = Slice(
    "ai",
    tools=(MANAGE_AI,),
    routes=routes,
    workers=workers,
    provides={
        "embed_texts": embed_texts,
        "complete_chat": complete_chat,
        "app_chat": app_chat,
        "app_embed": app_embed,
        "open_chat": open_chat,
    },
)
