"""Tenants, accounts, conversations, messages and the log.

Every table of a tenant's data has the tenant in its key and in its foreign keys, so a reference from one tenant to
another cannot be stored (invariant I12). In keys the tenant comes last: the column that tells rows apart leads, so that
the planner finds the right index also on a table it has no statistics of yet.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANCY = """
CREATE TABLE deployment (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL,
    origin text NOT NULL,
    key_fingerprint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE deployment IS
    'One row, made at the first start: namespaces Redis, and tells a restored copy from the original.';

CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tenants (id, slug, name) VALUES ('00000000-0000-7000-8000-000000000000', 'default', 'Default');
"""

ACCOUNTS = """
CREATE TABLE users (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL,
    username text NOT NULL CHECK (username ~ '^[a-z0-9_.]{3,30}$' OR deleted_at IS NOT NULL),
    email text NOT NULL,
    password_hash text NOT NULL,
    display_name text NOT NULL,
    bio text NOT NULL DEFAULT '',
    avatar_media_id uuid,
    interests text[] NOT NULL DEFAULT '{}',
    settings jsonb NOT NULL DEFAULT '{}',
    permissions bigint NOT NULL DEFAULT 0,
    follower_count integer NOT NULL DEFAULT 0,
    following_count integer NOT NULL DEFAULT 0,
    post_count integer NOT NULL DEFAULT 0,
    last_seen_at timestamptz,
    suspended_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, tenant_id)
) WITH (fillfactor = 90);
CREATE UNIQUE INDEX users_username ON users (username, tenant_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX users_email ON users (lower(email), tenant_id) WHERE deleted_at IS NULL;
CREATE INDEX users_listed ON users (tenant_id, id) WHERE deleted_at IS NULL AND suspended_at IS NULL;
COMMENT ON INDEX users_listed IS 'For the list of a tenant''s users, the one statement that fits its condition.';

CREATE TABLE auth_sessions (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    user_agent text NOT NULL DEFAULT '',
    ip text NOT NULL DEFAULT '',
    generation integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    revoke_reason text,
    PRIMARY KEY (id, tenant_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
);
CREATE INDEX auth_sessions_user ON auth_sessions (user_id, tenant_id) WHERE revoked_at IS NULL;

CREATE TABLE refresh_tokens (
    digest bytea PRIMARY KEY,
    tenant_id uuid NOT NULL,
    session_id uuid NOT NULL,
    generation integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    superseded_at timestamptz,
    FOREIGN KEY (tenant_id, session_id) REFERENCES auth_sessions (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id, tenant_id);

CREATE UNLOGGED TABLE realtime_tickets (
    digest bytea PRIMARY KEY,
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    session_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    access_expires_at timestamptz NOT NULL
);

CREATE TABLE blocks (
    tenant_id uuid NOT NULL,
    blocker_id uuid NOT NULL,
    blocked_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (blocker_id, blocked_id, tenant_id),
    FOREIGN KEY (tenant_id, blocker_id) REFERENCES users (tenant_id, id),
    FOREIGN KEY (tenant_id, blocked_id) REFERENCES users (tenant_id, id),
    CHECK (blocker_id <> blocked_id)
);
CREATE INDEX blocks_blocked ON blocks (blocked_id, tenant_id);

CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key, tenant_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
"""

CONVERSATIONS = """
CREATE TABLE conversations (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('direct', 'group')),
    title text,
    history text NOT NULL DEFAULT 'joined' CHECK (history IN ('joined', 'all')),
    direct_low uuid,
    direct_high uuid,
    last_seq bigint NOT NULL DEFAULT 0,
    activity_position bigint NOT NULL DEFAULT 0,
    created_position bigint NOT NULL DEFAULT 0,
    member_count integer NOT NULL DEFAULT 0,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, tenant_id),
    FOREIGN KEY (tenant_id, created_by) REFERENCES users (tenant_id, id),
    FOREIGN KEY (tenant_id, direct_low) REFERENCES users (tenant_id, id),
    FOREIGN KEY (tenant_id, direct_high) REFERENCES users (tenant_id, id),
    CHECK ((kind = 'direct') = (direct_low IS NOT NULL AND direct_high IS NOT NULL)),
    UNIQUE (direct_low, direct_high, tenant_id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN conversations.activity_position IS
    'Log position of the newest message, or of the creation: orders the list.';

CREATE TABLE conversation_members (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member')),
    joined_at timestamptz NOT NULL DEFAULT now(),
    joined_position bigint NOT NULL DEFAULT 0,
    joined_seq bigint NOT NULL DEFAULT 0,
    left_at timestamptz,
    read_seq bigint NOT NULL DEFAULT 0,
    delivered_seq bigint NOT NULL DEFAULT 0,
    read_announced_seq bigint NOT NULL DEFAULT 0,
    read_announced_at timestamptz NOT NULL DEFAULT '-infinity',
    delivered_announced_seq bigint NOT NULL DEFAULT 0,
    delivered_announced_at timestamptz NOT NULL DEFAULT '-infinity',
    muted_until timestamptz,
    pinned boolean NOT NULL DEFAULT false,
    PRIMARY KEY (conversation_id, user_id, tenant_id),
    FOREIGN KEY (tenant_id, conversation_id) REFERENCES conversations (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
) WITH (fillfactor = 70);
CREATE INDEX conversation_members_user ON conversation_members (user_id, tenant_id) WHERE left_at IS NULL;
COMMENT ON COLUMN conversation_members.joined_seq IS
    'last_seq at the latest joining: with history joined, messages after it are visible.';
COMMENT ON COLUMN conversation_members.read_announced_seq IS
    'read_seq as the last receipt event told it; a sweep tells the rest.';

CREATE TABLE membership_windows (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    user_id uuid NOT NULL,
    opens bigint NOT NULL,
    closes bigint,
    PRIMARY KEY (user_id, conversation_id, opens, tenant_id),
    FOREIGN KEY (tenant_id, conversation_id, user_id)
        REFERENCES conversation_members (tenant_id, conversation_id, user_id),
    CHECK (closes >= opens)
);
COMMENT ON TABLE membership_windows IS
    'From which log position to which each user may read a conversation, one row a stay; both ends included.';

CREATE TABLE messages (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    sender_id uuid NOT NULL,
    client_id uuid,
    sent_digest bytea NOT NULL,
    body text,
    reply_to_seq bigint,
    position bigint NOT NULL,
    edited_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, seq, tenant_id),
    UNIQUE (sender_id, client_id, tenant_id),
    FOREIGN KEY (tenant_id, conversation_id, sender_id)
        REFERENCES conversation_members (tenant_id, conversation_id, user_id)
);
COMMENT ON COLUMN messages.sent_digest IS
    'Digest of what was first sent, to tell a retry from a reuse of its client_id, also after an edit.';
COMMENT ON COLUMN messages.position IS 'Log position of its message.created event.';

CREATE TABLE message_edits (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    version integer NOT NULL,
    body text,
    edited_at timestamptz NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (conversation_id, seq, version, tenant_id),
    FOREIGN KEY (tenant_id, conversation_id, seq) REFERENCES messages (tenant_id, conversation_id, seq)
);
COMMENT ON TABLE message_edits IS
    'The text each edit replaced, when, and the position of the message.updated event that told it.';

CREATE TABLE reactions (
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    emoji text NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversation_id, seq, emoji, user_id, tenant_id),
    FOREIGN KEY (tenant_id, conversation_id, seq) REFERENCES messages (tenant_id, conversation_id, seq),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
);
"""

LOG = """
CREATE TABLE log_heads (
    log smallint PRIMARY KEY,
    position bigint NOT NULL,
    epoch bigint NOT NULL,
    floor bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
COMMENT ON TABLE log_heads IS 'One row a log. Its lock orders the writers: the last lock of every transaction.';
COMMENT ON COLUMN log_heads.floor IS 'Positions up to and including this one are past retention.';
INSERT INTO log_heads (log, position, epoch) VALUES (0, 0, (random() * 9007199254740991)::bigint);

CREATE TABLE log_marks (
    log smallint NOT NULL REFERENCES log_heads (log),
    at timestamptz NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (log, at)
);
COMMENT ON TABLE log_marks IS 'Where the head was at times past: turns a retention time into a position.';

CREATE TABLE events (
    position bigint NOT NULL,
    tenant_id uuid NOT NULL,
    topic_kind smallint NOT NULL,
    topic_id uuid NOT NULL,
    type text NOT NULL,
    at timestamptz NOT NULL,
    data text NOT NULL,
    control text,
    PRIMARY KEY (position)
) PARTITION BY RANGE (position);
CREATE INDEX events_topic ON events (topic_id, position);
CREATE TABLE events_p0 PARTITION OF events FOR VALUES FROM (0) TO (2000000);
CREATE TABLE events_p1 PARTITION OF events FOR VALUES FROM (2000000) TO (4000000);
"""

SEND_MESSAGES = """
CREATE FUNCTION send_messages(
    p_at timestamptz, p_tenant uuid[], p_conversation uuid[], p_sender uuid[], p_client uuid[], p_id uuid[],
    p_body text[], p_reply bigint[], p_digest bytea[], p_data text[]
) RETURNS TABLE (item integer, outcome text, message_seq bigint, event_position bigint)
LANGUAGE plpgsql VOLATILE
-- Index probes only, planned once a connection: right for any size of table, with or without statistics.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    outcomes text[];
    seqs bigint[];
    accepted integer;
    base bigint;
    stored integer;
BEGIN
    -- Conversations by id first, the log head last: every transaction takes its locks in this order.
    PERFORM 1 FROM conversations c
    WHERE (c.tenant_id, c.id) IN (SELECT DISTINCT t, i FROM unnest(p_tenant, p_conversation) AS u (t, i))
    ORDER BY c.id FOR NO KEY UPDATE;

    -- A new statement sees what was committed while it waited for those locks. The unique lookup comes before the
    -- membership check: an author's own retry is answered also after they have left.
    WITH looked_up AS MATERIALIZED (
        SELECT u.n, u.c, c.last_seq, CASE
            WHEN k.known THEN 'known'
            WHEN m.user_id IS NULL THEN 'not_found'
            WHEN b.blocked THEN 'blocked'
            WHEN u.reply NOT BETWEEN CASE c.history WHEN 'all' THEN 1 ELSE m.joined_seq + 1 END AND c.last_seq
                THEN 'reply_not_found'
            ELSE 'stored' END AS verdict
        FROM unnest(p_tenant, p_conversation, p_sender, p_client, p_reply)
            WITH ORDINALITY AS u (t, c, s, client, reply, n)
        LEFT JOIN conversations c ON c.tenant_id = u.t AND c.id = u.c
        LEFT JOIN conversation_members m
            ON m.tenant_id = u.t AND m.conversation_id = u.c AND m.user_id = u.s AND m.left_at IS NULL
        LEFT JOIN LATERAL (
            SELECT true AS known FROM messages k
            WHERE k.tenant_id = u.t AND k.sender_id = u.s AND k.client_id = u.client LIMIT 1) k ON true
        LEFT JOIN LATERAL (
            SELECT true AS blocked FROM blocks b
            WHERE c.kind = 'direct' AND b.tenant_id = u.t AND b.blocker_id IN (c.direct_low, c.direct_high)
                AND b.blocked_id IN (c.direct_low, c.direct_high) LIMIT 1) b ON true
    ), numbered AS (
        SELECT n, verdict, CASE verdict WHEN 'stored' THEN
            last_seq + row_number() OVER (PARTITION BY c, verdict ORDER BY n) END AS seq
        FROM looked_up
    )
    SELECT array_agg(verdict ORDER BY n), array_agg(seq ORDER BY n), count(seq)
    INTO outcomes, seqs, accepted FROM numbered;

    IF accepted > 0 THEN
        UPDATE log_heads SET position = position + accepted WHERE log = 0 RETURNING position - accepted INTO base;

        WITH fresh AS MATERIALIZED (
            SELECT u.*, base + row_number() OVER (ORDER BY u.n) AS position
            FROM unnest(p_tenant, p_conversation, p_sender, p_client, p_id, p_body, p_reply, p_digest, p_data, seqs)
                WITH ORDINALITY AS u (t, c, s, client, id, body, reply, digest, data, seq, n)
            WHERE u.seq IS NOT NULL
        ), written AS (
            INSERT INTO messages (tenant_id, conversation_id, seq, id, sender_id, client_id, sent_digest, body,
                reply_to_seq, position, created_at)
            SELECT t, c, seq, id, s, client, digest, body, reply, position, p_at FROM fresh
            ON CONFLICT (sender_id, client_id, tenant_id) DO NOTHING
            RETURNING 1
        ), told AS (
            INSERT INTO events (position, tenant_id, topic_kind, topic_id, type, at, data)
            SELECT position, t, 2, c, 'message.created', p_at, '{"seq":' || seq || data FROM fresh
        ), moved AS (
            UPDATE conversations c SET last_seq = l.seq, activity_position = l.position
            FROM (SELECT t, f.c, max(f.seq) AS seq, max(f.position) AS position FROM fresh f GROUP BY t, f.c) l
            WHERE c.tenant_id = l.t AND c.id = l.c
        ), read AS (
            UPDATE conversation_members m SET read_seq = l.seq, delivered_seq = l.seq,
                read_announced_seq = l.seq, delivered_announced_seq = l.seq
            FROM (SELECT t, c, s, max(f.seq) AS seq FROM fresh f GROUP BY t, c, s) l
            WHERE m.tenant_id = l.t AND m.conversation_id = l.c AND m.user_id = l.s
        )
        SELECT count(*) INTO stored FROM written;

        -- The same client_id sent to two conversations through two instances at once: the later batch runs again and
        -- finds it known.
        IF stored <> accepted THEN
            RAISE EXCEPTION 'client_id race' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;

    RETURN QUERY SELECT u.n::integer, u.o, u.seq,
            CASE WHEN u.seq IS NOT NULL THEN base + count(u.seq) OVER (ORDER BY u.n) END
        FROM unnest(outcomes, seqs) WITH ORDINALITY AS u (o, seq, n) ORDER BY u.n;
END $$;
"""

TABLES = (
    "events",
    "log_marks",
    "log_heads",
    "reactions",
    "message_edits",
    "messages",
    "membership_windows",
    "conversation_members",
    "conversations",
    "idempotency_keys",
    "blocks",
    "realtime_tickets",
    "refresh_tokens",
    "auth_sessions",
    "users",
    "tenants",
    "deployment",
)


def upgrade() -> None:
    for script in (TENANCY, ACCOUNTS, CONVERSATIONS, LOG):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)
    op.execute(SEND_MESSAGES)


def downgrade() -> None:
    op.execute("DROP FUNCTION send_messages")
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
