"""What a message is when it is first sent: the digest that tells a retry of it from another message."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from uuid import UUID

from domain.ids import ConversationId

DIGEST_BYTES = 16


def sent_digest(
    conversation: ConversationId, body: str, reply_to_seq: int | None, attachments: Sequence[UUID] = ()
) -> bytes:
    """16 bytes that stand for the place and the content of a message as first sent.

    Stored with the message for ever: a repeated ``client_id`` with the same digest is a retry, with another one a
    reuse, also after the message was edited or deleted. Never change the canonical form: fixed-size parts first, then
    the number of attachments, their ids, and the body last, so that no two contents share one form.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    digest.update(conversation.bytes)
    digest.update((reply_to_seq or 0).to_bytes(8, "big"))
    digest.update(len(attachments).to_bytes(2, "big"))
    for media in attachments:
        digest.update(media.bytes)
    digest.update(body.encode())
    return digest.digest()
