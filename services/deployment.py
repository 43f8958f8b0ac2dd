"""Which deployment this database is, whether our secret key is its own, and whether it is a restored copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from domain.ids import new_id
from services.security.tokens import fingerprint_key
from storage import deployment
from storage.database import Database


@dataclass(frozen=True, slots=True)
class Deployment:
    """``id`` namespaces what is shared outside PostgreSQL (Redis). ``epoch`` is that of the log's cursors.

    ``key_matches`` False: another secret key than the other instances'. Tokens made here would be refused there, so the
    instance must not be ready.
    """

    id: UUID
    epoch: int
    key_matches: bool


async def ensure_deployment(
    database: Database, *, secret_key: str, previous_secret_keys: Sequence[str] = ()
) -> Deployment:
    """Finds or makes the deployment of a migrated database. Instances may do this at the same time.

    - The key's fingerprint is stored at the first start. A stored one that belongs to a previous key of ours is
      replaced; any other is a mismatch, and stays.
    - Where the database was last started on another cluster or timeline it is a restored copy: positions may mean other
      events than they did, so it gets a new id and a new epoch. A copy of the data directory that never was recovered
      to a point in time has the same cluster and timeline and cannot be told apart this way.

    Raises Unavailable.
    """
    current = fingerprint_key(secret_key)
    async with database.connection() as connection:
        origin = await deployment.read_origin(connection)
    async with database.transaction() as connection:
        await deployment.insert_deployment(connection, new_id(), origin, current)
        row = await deployment.lock_deployment(connection)
        deployment_id, epoch = row.id, row.epoch
        if origin and not row.origin:
            await deployment.update_origin(connection, origin)
        elif origin and origin != row.origin:
            deployment_id = new_id()
            epoch = await deployment.replace_deployment(connection, deployment_id, origin)
        matches = row.key_fingerprint == current
        if not matches and row.key_fingerprint in map(fingerprint_key, previous_secret_keys):
            await deployment.update_fingerprint(connection, current)
            matches = True
    return Deployment(deployment_id, epoch, matches)


async def begin_new_epoch(database: Database) -> None:
    """For a copy that was set back without its cluster's identity changing: says that it is a restored one.

    Every cursor given before is answered with ``resync`` from now on, by running instances within a moment. They keep
    the former deployment's place in Redis until they are started again. Raises Unavailable.
    """
    async with database.connection() as connection:
        origin = await deployment.read_origin(connection)
    async with database.transaction() as connection:
        await deployment.replace_deployment(connection, new_id(), origin)
