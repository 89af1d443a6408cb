"""What the service takes and gives, as JSON; OpenAPI describes it from here."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aga_model.gallery import MAX_PURPOSE
from aga_model.search import Answer, hit_values

from ..searching import MAX_CAMERAS, MAX_RESULTS, MAX_SENTENCE, MAX_TIME, Wanted

MOST_QUERIES = 32  # of one batch


class Options(BaseModel):
    """How the results are made."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(10, ge=1, le=MAX_RESULTS, description="Number of results.")
    cameras: list[str] = Field([], max_length=MAX_CAMERAS, description="Only images of one of these cameras.")
    persons: list[str] = Field([], max_length=MAX_CAMERAS, description="Only images of one of these person ids.")
    since: str = Field("", max_length=MAX_TIME, description="Only images taken then or later: 2026-01-31T18:30.")
    until: str = Field("", max_length=MAX_TIME, description="Only images taken before, or on this day or before.")
    one_per: Literal["", "person", "track"] = Field("", description="Only the best image of each person or track.")
    purpose: str = Field("", max_length=MAX_PURPOSE, description="Why, for the audit log.")

    def wanted(self) -> Wanted:
        """The same for [`GallerySearch`]."""
        return Wanted(self.top_k, self.cameras, self.since, self.until, self.one_per, self.purpose, self.persons)


class SentenceQuery(Options):
    """Search for a sentence."""

    query: str = Field(max_length=MAX_SENTENCE, description="What the person looks like.")


class BatchQuery(Options):
    """Search for several sentences."""

    queries: list[str] = Field(
        min_length=1, max_length=MOST_QUERIES, description="Sentences, each searched for alone."
    )


class ImageQuery(Options):
    """Search for an image."""

    image: str = Field(description="An image of one person: data:image/jpeg;base64,...")


class ExplainQuery(BaseModel):
    """What each word says about an image of the gallery."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(max_length=MAX_SENTENCE, description="The sentence.")
    id: str = Field(pattern="^[0-9a-f]{32}$", description="Of a hit.")


class AnswerModel(BaseModel):
    """Hits of a query, best first, and what the reader should know of this search."""

    query: str
    hits: list[dict[str, Any]] = Field(
        description="Rank, scores and facts of each image, as `aga search --json` gives."
    )
    notes: list[str]
    error: str | None = Field(default=None, description="Of a batch: why this sentence could not be answered.")

    @classmethod
    def of(cls, answer: Answer, notes: tuple[str, ...] = ()) -> "AnswerModel":
        """An answer with the service's own notes before those of the search."""
        hits = [hit_values(hit) for hit in answer.hits]
        return cls(query=answer.query, hits=hits, notes=[*notes, *answer.notes], error=None)


class Health(BaseModel):
    """That the service answers, and what it searches."""

    status: Literal["ok"] = "ok"
    gallery: str
    images: int
    model: str
    version: str


__all__ = [
    "MOST_QUERIES",
    "AnswerModel",
    "BatchQuery",
    "ExplainQuery",
    "Health",
    "ImageQuery",
    "Options",
    "SentenceQuery",
]
