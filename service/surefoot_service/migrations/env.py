"""Alembic's entry: migrates over the connection that the service hands in."""

from __future__ import annotations

from alembic import context

from surefoot_service.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        # several replicas may start at once: one migrates, the others wait and find it done
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7350)")
    context.run_migrations()
connection.commit()
