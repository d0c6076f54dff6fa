"""Timezones: what a client asks for, and what it gets."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

ZoneName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+\-]+$")]
"""A part of a timezone's name, as the tz database spells them."""


class TimezoneQuery(BaseModel):
    """Which timezone."""

    model_config = ConfigDict(extra="forbid")

    area: ZoneName = Field(description="The first part of the timezone's name.", examples=["Europe"])
    city: ZoneName = Field(description="The second part of the timezone's name.", examples=["Moscow"])


class Timezone(BaseModel):
    """A timezone and the time in it. The timezone service says more; what is not named here is left out."""

    timezone: str = Field(description="Its name.", examples=["Europe/Moscow"])
    abbreviation: str = Field(examples=["MSK"])
    utc_offset: str = Field(description="From UTC, just now.", pattern=r"^[+-]\d\d:\d\d$", examples=["+03:00"])
    datetime: AwareDatetime = Field(description="The time there.", examples=["2026-01-31T15:00:00+03:00"])
    dst: bool = Field(description="Whether daylight saving time is in force.", examples=[False])
