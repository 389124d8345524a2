"""Alembic's entry: migrations run on the connection that `advex.annotation.database` hands over."""

from __future__ import annotations

from alembic import context

from advex.annotation.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
