"""The model gateway: chat and embeddings for apps, by the providers there are, and a local model without any."""

from brolly.ai.embedding import embed_texts
from brolly.ai.service import complete_chat
from brolly.core.slice import Slice

SLICE = Slice("ai", provides={"embed_texts": embed_texts, "complete_chat": complete_chat})
