"""A database with made-up history in it, in a moment, and what must be true of any history."""

from __future__ import annotations

from services.seed_plan import SeedSize
from services.seeding import Seeded, Seeding
from storage.database import Connection, Database
from storage.retention import PARTITION_EVENTS

HASH = "$2b$04$MWXcwYzFTCvQ/WxPlXc0NuAeoxcUzH4GINvSbLnI9P7EHzAnpBTS2"  # of nothing that anyone knows


async def seed(
    database: Database,
    *,
    users: int,
    messages: int,
    log_rows: int,
    number: int = 1,
    slug: str | None = None,
    password_hash: str = HASH,
    partition_events: int = PARTITION_EVENTS,
) -> Seeded:
    seeding = Seeding(database, progress=lambda *_: None, partition_events=partition_events)
    made = await seeding.run(slug, SeedSize(users, messages, log_rows), number, password_hash)
    await seeding.settle()
    return made


#: Each counts what is wrong. Read with a fresh eye: what the services promise of rows that they wrote.
WRONG = {
    "positions without holes up to the head": """
        SELECT abs(h.position - count(e.position)) + abs(h.position - coalesce(max(e.position), 0))
        FROM log_heads h LEFT JOIN events e ON true GROUP BY h.position""",
    "times that go back along the log": """
        SELECT count(*) FROM (SELECT at < lag(at) OVER (ORDER BY position) AS back FROM events) e WHERE back""",
    "messages whose event is not theirs": """
        SELECT count(*) FROM messages m LEFT JOIN events e ON e.position = m.position
        WHERE e.type IS DISTINCT FROM 'message.created' OR e.topic_id <> m.conversation_id OR e.at <> m.created_at
            OR (e.data::json ->> 'id')::uuid <> m.id OR (e.data::json ->> 'seq')::bigint <> m.seq
            OR e.data::json ->> 'body' <> m.body OR (e.data::json ->> 'sender_id')::uuid <> m.sender_id
            OR (e.data::json ->> 'client_id')::uuid <> m.client_id""",
    "events of messages that are not there": """
        SELECT count(*) FROM events e WHERE type = 'message.created'
            AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.position = e.position)""",
    "messages out of order": """
        SELECT count(*) FROM (
            SELECT position < lag(position) OVER (PARTITION BY conversation_id ORDER BY seq) AS back FROM messages
        ) m WHERE back""",
    "conversations whose seqs have holes, or whose end is not their newest message": """
        SELECT count(*) FROM conversations c CROSS JOIN LATERAL (
            SELECT count(*) AS count, coalesce(max(seq), 0) AS last, max(position) AS position
            FROM messages m WHERE m.conversation_id = c.id
        ) m WHERE c.last_seq <> m.count OR c.last_seq <> m.last
            OR c.activity_position <> coalesce(m.position, c.created_position)""",
    "conversations that count their members wrong": """
        SELECT count(*) FROM conversations c WHERE member_count <> (
            SELECT count(*) FROM conversation_members m WHERE m.conversation_id = c.id AND left_at IS NULL)""",
    "members whose window does not open with the event that took them in": """
        SELECT count(*) FROM conversation_members m
        LEFT JOIN membership_windows w ON (w.conversation_id, w.user_id) = (m.conversation_id, m.user_id)
        LEFT JOIN events e ON e.position = w.opens
        WHERE m.joined_position IS DISTINCT FROM w.opens OR w.closes IS NOT NULL
            OR e.type IS DISTINCT FROM 'conversation.created' OR e.topic_id <> m.conversation_id
            OR NOT (e.control::jsonb -> 'joins') ? m.user_id::text""",
    "members who are further than the log tells": """
        SELECT count(*) FROM conversation_members m CROSS JOIN LATERAL (
            SELECT max((e.data::json ->> 'seq')::bigint) FILTER (WHERE e.type <> 'receipt.delivered') AS read,
                max((e.data::json ->> 'seq')::bigint) AS delivered
            FROM events e WHERE e.topic_id = m.conversation_id
                AND e.type IN ('message.created', 'receipt.read', 'receipt.delivered')
                AND m.user_id::text IN (e.data::json ->> 'user_id', e.data::json ->> 'sender_id')
        ) e WHERE (m.read_seq, m.delivered_seq) <> (coalesce(e.read, 0), coalesce(e.delivered, 0))
            OR (m.read_announced_seq, m.delivered_announced_seq) <> (m.read_seq, m.delivered_seq)
            OR m.read_seq > m.delivered_seq""",
    "receipts of who is no member, or of what was not sent": """
        SELECT count(*) FROM events e WHERE e.type LIKE 'receipt.%' AND NOT EXISTS (
            SELECT 1 FROM conversation_members m JOIN messages p USING (conversation_id)
            WHERE m.conversation_id = e.topic_id AND m.user_id::text = e.data::json ->> 'user_id'
                AND p.seq = (e.data::json ->> 'seq')::bigint AND p.position < e.position)""",
    "reactions that the log does not tell of": """
        SELECT abs((SELECT count(*) FROM reactions) - (SELECT
            count(*) FILTER (WHERE type = 'reaction.added') - count(*) FILTER (WHERE type = 'reaction.removed')
            FROM events))""",
    "marks that are not where the log was": """
        SELECT count(*) FROM log_marks m WHERE EXISTS (
            SELECT 1 FROM events e WHERE e.position <= m.position AND e.at > m.at)""",
}


async def wrongs(connection: Connection) -> dict[str, int]:
    """What is wrong with the history in a database, and how often."""
    return {what: n for what, check in WRONG.items() if (n := await connection.fetchval(check))}
