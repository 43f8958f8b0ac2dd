"""Registering, profiles, deleting, suspending and blocking, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import orjson
import pytest

from domain.errors import (
    AlreadyTaken,
    Forbidden,
    Invalid,
    InvalidFields,
    NotFound,
    Unavailable,
    UserNotFound,
    WrongPassword,
)
from domain.identity import Identity, Permission
from domain.ids import DEFAULT_TENANT, ConversationId, UserId, new_id
from domain.resources import User
from services.accounts import Accounts
from services.conversations import Conversations, NewConversation
from services.members import GroupDeparture, Members
from services.profiles import ProfileChange, Profiles
from services.sessions import SessionRevoked
from services.sign_ins import WrongCredentials
from services.visibility import can_see, visible_users
from tests.support.accounts import DEVICE, PASSWORD, Office, open_office


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    async with open_office(database_url) as opened:
        yield opened


async def register(office: Office, **changes: str) -> User:
    wanted = {"username": "ada", "email": "ada@example.com", "password": PASSWORD} | changes
    return (await office.accounts.register(DEFAULT_TENANT, device=DEVICE, **wanted)).user


async def names(office: Office, identity: Identity) -> list[str]:
    users, more = await office.profiles.list(identity, before=None, limit=100)
    assert more is None
    return [user.username for user in users]


async def test_who_registers_is_signed_in_to_what_they_asked_for(office: Office) -> None:
    signed_in = await office.accounts.register(
        DEFAULT_TENANT,
        username="Ada.L_1",
        email="Ada@EXAMPLE.com",
        password=PASSWORD,
        display_name="Ada Lovelace",
        device=DEVICE,
    )
    user = signed_in.user
    assert (user.username, user.display_name, user.email) == ("ada.l_1", "Ada Lovelace", "Ada@example.com")
    assert (user.bio, user.avatar_url, user.interests) == ("", None, [])
    assert (user.follower_count, user.following_count, user.post_count) == (0, 0, 0)
    assert user.settings.model_dump() == {"private": False, "presence": True}
    assert (signed_in.token_type, signed_in.expires_in) == ("Bearer", 900)
    identity = await office.identify(signed_in)
    assert (identity.user, identity.permissions) == (user.id, Permission.NONE)
    assert await office.profiles.me(identity) == user


async def test_a_password_at_the_limits_is_taken_and_counts_in_full(office: Office) -> None:
    for n, password in enumerate(["12345678", "ä" * 4, "x" * 1024, "\x00" * 8]):
        name = f"user{n}"
        await register(office, username=name, email=f"{name}@example.com", password=password)
        await office.sign_ins.sign_in(DEFAULT_TENANT, name, password, DEVICE)
        with pytest.raises(WrongCredentials):
            await office.sign_ins.sign_in(DEFAULT_TENANT, name, password[:-1] + "!", DEVICE)


async def test_everything_that_is_wrong_is_told_at_once(office: Office) -> None:
    with pytest.raises(InvalidFields) as raised:
        await register(office, username="x", email="x", password="x")
    assert [f.pointer for f in raised.value.fields] == ["/username", "/email", "/password"]


async def test_names_are_unique_without_case(office: Office) -> None:
    await register(office)
    with pytest.raises(AlreadyTaken) as raised:
        await register(office, username="ADA", email="other@example.com")
    assert (raised.value.status, raised.value.code) == (409, "username_taken")
    with pytest.raises(AlreadyTaken) as raised:
        await register(office, username="other", email="ADA@example.com")
    assert (raised.value.status, raised.value.code) == (409, "email_taken")
    with pytest.raises(AlreadyTaken) as raised:
        await register(office)
    assert raised.value.code == "username_taken"


async def test_of_many_who_want_one_name_one_gets_it(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url) as other:
        results = await asyncio.gather(
            *(
                register(office, username="ada", email=f"{i}.{n}@example.com")
                for i, office in enumerate((one, other))
                for n in range(5)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(r, User) for r in results) == 1
        assert all(r.code == "username_taken" for r in results if isinstance(r, AlreadyTaken))
        assert all(isinstance(r, User | AlreadyTaken) for r in results)
        assert len(await one.sql("SELECT 1 FROM auth_sessions")) == 1


async def test_a_profile_changes_only_in_what_is_named(office: Office) -> None:
    ada = await office.person("ada")
    await office.profiles.update(ada, ProfileChange(bio="Numbers.", interests=["engines", "verse"]))
    user = await office.profiles.update(ada, ProfileChange(display_name="A. L.", settings={"private": True}))
    assert (user.display_name, user.bio, user.interests) == ("A. L.", "Numbers.", ["engines", "verse"])
    assert user.settings.model_dump() == {"private": True, "presence": True}
    user = await office.profiles.update(
        ada, ProfileChange(bio="", interests=[], settings={"presence": False})
    )
    assert (user.display_name, user.bio, user.interests) == ("A. L.", "", [])
    assert user.settings.model_dump() == {"private": True, "presence": False}
    assert await office.profiles.me(ada) == user


async def test_settings_that_only_a_newer_version_knows_are_left_alone(office: Office) -> None:
    ada = await office.person("ada")
    await office.sql("""UPDATE users SET settings = '{"presence": false, "from_the_future": 1}'""")
    user = await office.profiles.update(ada, ProfileChange(settings={"private": True}))
    assert user.settings.model_dump() == {"private": True, "presence": False}
    assert await office.sql("SELECT settings->>'from_the_future' FROM users") == [("1",)]


async def test_an_avatar_that_is_not_there_is_refused(office: Office) -> None:
    ada = await office.person("ada")
    with pytest.raises(InvalidFields) as raised:
        await office.profiles.update(ada, ProfileChange(avatar_media_id=new_id()))
    assert (raised.value.status, raised.value.code) == (422, "media_not_found")
    assert [f.pointer for f in raised.value.fields] == ["/avatar_media_id"]


async def test_a_user_is_found_by_name_and_by_id(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    for name in ("bob", "BOB", str(bob.user), str(bob.user).upper()):
        found = await office.profiles.get(ada, name)
        assert found.username == "bob"
        assert type(found) is User, "what is private is not shown"
    for name in ("carol", str(new_id()), "", "\x00", "bob\x00", "%", "b_b", "\u212a"):
        with pytest.raises(NotFound):
            await office.profiles.get(ada, name)


async def test_users_are_listed_newest_first_in_pages(office: Office) -> None:
    ada = await office.person("ada")
    for n in range(4):
        await office.register(f"user{n}")
    seen, before = [], None
    while True:
        users, before = await office.profiles.list(ada, before=before, limit=2)
        seen += [u.username for u in users]
        await office.register(f"late{len(seen)}")  # who comes meanwhile moves nobody
        if before is None:
            break
    assert seen == ["user3", "user2", "user1", "user0", "ada"]


async def test_a_list_is_one_query_whatever_its_length(office: Office) -> None:
    ada = await office.person("ada")
    for n in range(10):
        await office.register(f"user{n}")
    taken = office.database.taken
    users, _ = await office.profiles.list(ada, before=None, limit=100)
    assert len(users) == 11
    assert office.database.taken == taken + 1


async def test_a_block_hides_both_from_each_other(office: Office) -> None:
    ada, bob, carol = [await office.person(name) for name in ("ada", "bob", "carol")]
    await office.blocks.block(ada, "bob")
    await office.blocks.block(ada, str(bob.user))
    for viewer, hidden in ((ada, "bob"), (bob, "ada")):
        with pytest.raises(NotFound):
            await office.profiles.get(viewer, hidden)
        assert hidden not in await names(office, viewer)
        async with office.database.connection() as connection:
            seen = await can_see(connection, DEFAULT_TENANT, viewer.user, [ada.user, bob.user, carol.user])
            assert seen == {viewer.user, carol.user}
            with pytest.raises(UserNotFound) as raised:
                await visible_users(connection, DEFAULT_TENANT, viewer.user, ["carol", hidden], "/members")
            assert [f.pointer for f in raised.value.fields] == ["/members/1"]
    assert await names(office, carol) == ["carol", "bob", "ada"]


async def test_a_hidden_user_can_be_blocked_and_unblocked(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    await office.blocks.block(ada, "bob")
    await office.blocks.block(bob, "ada")
    await office.blocks.unblock(ada, "bob")
    await office.blocks.unblock(ada, "bob")
    with pytest.raises(NotFound):
        await office.profiles.get(ada, "bob")
    await office.blocks.unblock(bob, "ada")
    assert (await office.profiles.get(ada, "bob")).username == "bob"


async def test_nobody_blocks_themselves_or_nobody(office: Office) -> None:
    ada = await office.person("ada")
    with pytest.raises(Invalid):
        await office.blocks.block(ada, "ada")
    for change in (office.blocks.block, office.blocks.unblock):
        with pytest.raises(NotFound):
            await change(ada, "nobody")


async def test_the_list_of_blocks_is_ones_own_latest_first_in_pages(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    for n in range(5):
        await office.register(f"user{n}")
        await office.blocks.block(ada, f"user{n}")
    await office.blocks.block(bob, "ada")
    seen: list[str] = []
    before: tuple[datetime, UserId] | None = None
    while True:
        users, before = await office.blocks.list(ada, before=before, limit=2)
        seen += [u.username for u in users]
        if before is None:
            break
    assert seen == ["user4", "user3", "user2", "user1", "user0"]


async def test_a_block_waits_for_a_message_on_its_way(office: Office) -> None:
    """A send holds the conversation's lock from its check for a block until it has committed."""
    ada, bob = await office.person("ada"), await office.person("bob")
    low, high = sorted((ada.user, bob.user))
    await office.sql(
        """INSERT INTO conversations (tenant_id, id, kind, created_by, direct_low, direct_high)
           VALUES ($1, $2, 'direct', $3, $3, $4)""",
        DEFAULT_TENANT,
        new_id(),
        low,
        high,
    )
    async with office.database.transaction() as sending:
        await sending.execute("SELECT 1 FROM conversations FOR NO KEY UPDATE")
        blocking = asyncio.create_task(office.blocks.block(bob, "ada"))
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(10):
            while not await office.sql(waiting):
                assert not blocking.done(), "it did not wait"
    await blocking


async def test_a_deleted_account_is_gone_and_its_names_are_free(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    await office.profiles.update(ada, ProfileChange(bio="private words", interests=["verse"]))
    await office.blocks.block(bob, "ada")
    second = await office.identify(await office.sign_in("ada"))
    await office.accounts.delete(ada, PASSWORD)
    with pytest.raises(NotFound):
        await office.profiles.get(bob, str(ada.user))
    with pytest.raises(NotFound):
        await office.blocks.block(bob, str(ada.user))
    assert await names(office, bob) == ["bob"]
    assert (await office.blocks.list(bob, before=None, limit=10))[0] == []
    for login in ("ada", "ada@example.com", "deleted-" + str(ada.user)[-12:], ""):
        with pytest.raises(WrongCredentials):
            await office.sign_ins.sign_in(DEFAULT_TENANT, login, PASSWORD, DEVICE)
    told = {(user, session): orjson.loads(data)["reason"] for user, session, data in office.revoked()}
    assert told == dict.fromkeys([(ada.user, ada.session), (ada.user, second.session)], "account_deleted")
    ((row,),) = await office.sql("SELECT to_jsonb(u)::text FROM users u WHERE id = $1", ada.user)
    assert "private words" not in row
    assert "verse" not in row
    assert "ada@" not in row
    again = await office.person("ada")
    assert again.user != ada.user


async def test_who_is_taken_into_a_group_while_they_delete_their_account_is_in_none(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    groups = Conversations(office.database, office.uow)
    members = Members(office.database, office.uow)
    answer = await groups.start(ada, NewConversation("group", [], "A group"))
    group = ConversationId(UUID(orjson.loads(answer.body)["id"]))

    class TakenInAtTheWorstMoment(GroupDeparture):
        times = 1

        async def leave(self, identity: Identity) -> None:
            await super().leave(identity)
            if self.times:
                self.times -= 1
                await members.add(ada, group, ["bob"])

    departure = TakenInAtTheWorstMoment(office.uow)
    accounts = Accounts(
        office.database, office.uow, office.passwords, office.sign_ins, office.directory, departure=departure
    )
    departure.times = 100
    with pytest.raises(Unavailable):
        await accounts.delete(bob, PASSWORD)
    await office.profiles.me(bob)
    departure.times = 1
    await accounts.delete(bob, PASSWORD)
    shown = await groups.get(ada, group)
    assert shown.member_count == 1
    assert await office.sql("SELECT 1 FROM users WHERE id = $1 AND deleted_at IS NULL", bob.user) == []
    still = "SELECT 1 FROM conversation_members WHERE user_id = $1 AND left_at IS NULL"
    assert await office.sql(still, bob.user) == []
    assert (
        await office.sql("SELECT 1 FROM membership_windows WHERE user_id = $1 AND closes IS NULL", bob.user)
        == []
    )


async def test_only_settings_that_were_given_are_told_to_have_changed(office: Office) -> None:
    ada = await office.person("ada")
    changed: list[UserId] = []
    profiles = Profiles(office.database, office.uow, changed=changed.extend)
    await profiles.update(ada, ProfileChange(bio="words"))
    assert changed == []
    await profiles.update(ada, ProfileChange(settings={"presence": False}))
    assert changed == [ada.user]


async def test_deleting_needs_the_password(office: Office) -> None:
    ada = await office.person("ada")
    with pytest.raises(WrongPassword) as raised:
        await office.accounts.delete(ada, PASSWORD + "!")
    assert (raised.value.status, raised.value.code) == (403, "wrong_password")
    await office.profiles.me(ada)
    await office.accounts.delete(ada, PASSWORD)
    with pytest.raises(SessionRevoked):
        await office.accounts.delete(ada, PASSWORD)


async def test_deleting_and_signing_in_at_once_leaves_no_good_sign_in(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url) as other:
        for n in range(8):
            identity = await one.person(f"user{n}")
            await asyncio.gather(
                one.accounts.delete(identity, PASSWORD),
                *(other.sign_in(f"user{n}") for _ in range(3)),
                return_exceptions=True,
            )
        alive = "SELECT 1 FROM auth_sessions WHERE revoked_at IS NULL"
        assert await one.sql("SELECT 1 FROM users WHERE deleted_at IS NULL") == []
        assert await one.sql(alive) == []


async def test_suspending_ends_every_sign_in_and_keeps_new_ones_out(office: Office) -> None:
    moderator, bob = await office.moderator(), await office.person("bob")
    first = await office.register("ada")
    second = await office.sign_in("ada")
    await office.admin.suspend(moderator, "ADA")
    for signed_in in (first, second):
        with pytest.raises(SessionRevoked):
            await office.identify(signed_in)
        with pytest.raises(SessionRevoked):
            await office.sign_ins.refresh(DEFAULT_TENANT, signed_in.refresh_token, DEVICE)
    assert {orjson.loads(data)["reason"] for _, _, data in office.revoked()} == {"account_suspended"}
    assert len(office.revoked()) == 2
    assert "ada" not in await names(office, bob)
    await office.admin.suspend(moderator, "ada")
    assert len(office.revoked()) == 2
    await office.admin.unsuspend(moderator, str(first.user.id))
    with pytest.raises(SessionRevoked):
        await office.identify(first)
    await office.identify(await office.sign_in("ada"))
    assert "ada" in await names(office, bob)


async def test_suspending_and_signing_in_at_once_leaves_no_good_sign_in(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url) as other:
        moderator = await one.moderator()
        for n in range(8):
            await one.register(f"user{n}")
            await asyncio.gather(
                one.admin.suspend(moderator, f"user{n}"),
                *(other.sign_in(f"user{n}") for _ in range(3)),
                return_exceptions=True,
            )
        alive = """SELECT 1 FROM auth_sessions s JOIN users u ON u.id = s.user_id
                   WHERE s.revoked_at IS NULL AND u.suspended_at IS NOT NULL"""
        assert await one.sql(alive) == []


async def test_only_moderators_suspend_and_learn_nothing_otherwise(office: Office) -> None:
    ada = await office.person("ada")
    moderator = await office.moderator()
    for name in ("moderator", "nobody"):
        for change in (office.admin.suspend, office.admin.unsuspend):
            with pytest.raises(Forbidden):
                await change(ada, name)
    with pytest.raises(NotFound):
        await office.admin.suspend(moderator, "nobody")
    with pytest.raises(Invalid):
        await office.admin.suspend(moderator, "moderator")


async def test_a_moderator_cannot_suspend_who_may_more(office: Office) -> None:
    await office.moderator("boss")
    helper = await office.moderator("helper")
    await office.sql(
        "UPDATE users SET permissions = $1 WHERE username = 'helper'", int(Permission.MODERATE_USERS)
    )
    with pytest.raises(Forbidden):
        await office.admin.suspend(helper, "boss")
    await office.admin.suspend(await office.identify(await office.sign_in("boss")), "helper")


async def test_a_permission_that_was_taken_away_is_gone_at_once(office: Office) -> None:
    moderator = await office.moderator()
    await office.register("ada")
    await office.sql("UPDATE users SET permissions = 0")
    with pytest.raises(Forbidden):
        await office.admin.suspend(moderator, "ada")


async def test_blocks_hide_nobody_from_a_moderator(office: Office) -> None:
    moderator, ada = await office.moderator(), await office.person("ada")
    await office.blocks.block(ada, "moderator")
    await office.admin.suspend(moderator, "ada")
    with pytest.raises(SessionRevoked):
        await office.directory.identify(DEFAULT_TENANT, ada.session, ada.user, None)
