"""Pages of a list: which one a client asks for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PageQuery(BaseModel):
    """Which page. Lists have their own filters besides."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="How many at most.", examples=[20])
    cursor: str | None = Field(
        None, max_length=500, description="Where the page before ended: its `next`, with the same filters."
    )
