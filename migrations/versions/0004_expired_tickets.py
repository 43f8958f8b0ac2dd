"""Tickets past their time are found by an index, however many are not."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX realtime_tickets_expires ON realtime_tickets (expires_at)")


def downgrade() -> None:
    op.execute("DROP INDEX realtime_tickets_expires")
