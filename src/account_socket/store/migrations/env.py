"""Alembic's entry: runs the migrations on the connection that `schema.migrate` hands over, in one transaction."""

from __future__ import annotations

from alembic import context

from account_socket.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's DDL is: a migration that dies half-way leaves nothing behind
)
with context.begin_transaction():
    context.run_migrations()
