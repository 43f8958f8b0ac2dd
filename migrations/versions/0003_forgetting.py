"""What is past its time is found by an index, also where nearly all of a table is not."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Windows that are still open, most of them, are not in it.
WINDOWS_CLOSED = """
CREATE INDEX membership_windows_closed ON membership_windows (closes) WHERE closes IS NOT NULL
"""
SESSIONS_ENDED = "CREATE INDEX auth_sessions_ended ON auth_sessions (least(expires_at, revoked_at))"


def upgrade() -> None:
    for statement in (WINDOWS_CLOSED, SESSIONS_ENDED):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX auth_sessions_ended")
    op.execute("DROP INDEX membership_windows_closed")
