"""What conversations need beside their rows: receipts still to be told, members in order, a seq by position."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RECEIPTS_OWED = """
CREATE TABLE receipts_owed (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    user_id uuid NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id, user_id),
    FOREIGN KEY (tenant_id, conversation_id, user_id)
        REFERENCES conversation_members (tenant_id, conversation_id, user_id)
)
"""
# A table of its own, not a partial index over conversation_members: an index that looks at read_seq would make every
# send's update of its sender's row write all of that row's index entries again.
COMMENT_OWED = """
COMMENT ON TABLE receipts_owed IS
    'Members whose newest receipt was held back, at most one event a second each; from due_at on a sweep tells it.'
"""
OWED_DUE = "CREATE INDEX receipts_owed_due ON receipts_owed (due_at)"

# Pages of members, and the first ten of a conversation, without reading all of it.
MEMBERS_ORDER = """
CREATE INDEX conversation_members_order ON conversation_members (tenant_id, conversation_id, joined_position, user_id)
WHERE left_at IS NULL
"""

# Messages of one conversation have rising positions and no holes in their seqs, so halving finds the place in as many
# primary-key probes as the range has binary digits; an index on the position would cost every send instead.
SEQ_AT = """
CREATE FUNCTION seq_at(p_tenant uuid, p_conversation uuid, p_low bigint, p_high bigint, p_position bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    low bigint := p_low;
    high bigint := p_high;
    middle bigint;
BEGIN
    WHILE low < high LOOP
        middle := low + (high - low + 1) / 2;
        IF (SELECT m.position FROM messages m
            WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.seq = middle) <= p_position
        THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$
"""
COMMENT_SEQ_AT = """
COMMENT ON FUNCTION seq_at IS
    'The newest seq in p_low..p_high whose message is at or before p_position in the log; p_low where none is.'
"""


def upgrade() -> None:
    for statement in (RECEIPTS_OWED, COMMENT_OWED, OWED_DUE, MEMBERS_ORDER, SEQ_AT, COMMENT_SEQ_AT):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION seq_at")
    op.execute("DROP INDEX conversation_members_order")
    op.execute("DROP TABLE receipts_owed")
