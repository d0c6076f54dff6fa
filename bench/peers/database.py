"""SQLAlchemy's async ORM, as FastAPI and FastStream services use it.

`DATABASE_URL` names the driver (`postgresql+asyncpg://…` or `postgresql+psycopg://…`), `POOL_SIZE` the pool's size.
"""

from __future__ import annotations

import os
from datetime import datetime

from sqlalchemy import DateTime, Identity, func
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class StudentRow(Base):
    """The table that Rolecall's migrations made."""

    __tablename__ = "student"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    active: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    version: Mapped[int] = mapped_column(server_default="1")


engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=int(os.environ["POOL_SIZE"]), max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
