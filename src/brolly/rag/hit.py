"""One chunk that a search found: what it says, where it stands, and why it was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """``similarity`` is 1 less the cosine distance; ``places`` are those in the lists by vectors and by words."""

    id: str
    document_id: str
    filename: str
    content: str
    heading: str
    page: int | None
    position: int
    start: int
    end: int
    metadata: Mapping[str, Any]
    similarity: float
    words: float | None
    places: tuple[int | None, int | None]
    fused: float

    def shown(self, number: int) -> dict[str, Any]:
        """As callers see it. ``score`` is the similarity of meaning; the order is that of all scores together."""
        return {
            "number": number,
            "id": self.id,
            "text": self.content,
            "score": round(self.similarity, 4),
            "document_id": self.document_id,
            "document": {"id": self.document_id, "filename": self.filename},
            "page": self.page,
            "heading": self.heading,
            "position": self.position,
            "start": self.start,
            "end": self.end,
            "metadata": self.metadata,
            "scores": {
                "fused": round(self.fused, 4),
                "vector_place": self.places[0],
                "text": None if self.words is None else round(self.words, 4),
                "text_place": self.places[1],
            },
        }


def hit_of(row: Any, filename: str) -> Hit:
    """The chunk of a row of the search's statement."""
    return Hit(
        id=str(row["id"]),
        document_id=str(row["document_id"]),
        filename=filename,
        content=row["content"],
        heading=row["heading"],
        page=row["page"],
        position=row["position"],
        start=row["start_offset"],
        end=row["end_offset"],
        metadata=json.loads(row["metadata"]),
        similarity=row["similarity"],
        words=row["words"],
        places=(row["near"], row["found"]),
        fused=row["fused"],
    )
