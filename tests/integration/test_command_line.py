"""The command line as a newcomer and an operator meet it: what works, and what is said when it does not."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from server.data_dir import with_secret_key
from server.embedded import EmbeddedServices
from server.settings import Settings
from tests.support.command import run
from tests.support.instance import Instance
from tests.support.loop import LoopThread
from tests.support.services import free_port

Query = Callable[..., object]


@pytest.fixture
def query(database_url: str, loop_thread: LoopThread) -> Query:
    async def ask(statement: str, *arguments: object) -> object:
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            return await connection.fetchval(statement, *arguments, timeout=10)
        finally:
            await connection.close(timeout=5)

    return lambda statement, *arguments: loop_thread.run(ask(statement, *arguments))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def one_line(text: str) -> str:
    """The one line that stderr is expected to be."""
    assert text.startswith("parley: ")
    assert text.count("\n") == 1, text
    return text


def test_a_wrong_setting_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    ended = run("serve", data_dir=tmp_path / "data", PARLEY_PORT="eighty")
    assert ended.returncode == 2
    assert "PARLEY_PORT=eighty" in one_line(ended.stderr)
    assert not (tmp_path / "data").exists()


def test_serving_is_what_happens_without_a_command(tmp_path: Path) -> None:
    assert run(data_dir=tmp_path / "data", PARLEY_PORT="eighty").returncode == 2


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path, taken_port: int) -> None:
    ended = run("serve", data_dir=tmp_path / "data", PARLEY_PORT=str(taken_port))
    assert ended.returncode == 1
    line = one_line(ended.stderr)
    assert f"port {taken_port} on 127.0.0.1 is taken" in line
    assert "PARLEY_PORT=" in line
    assert not (tmp_path / "data").exists()


def test_an_address_that_is_not_ours_is_one_clear_line(tmp_path: Path) -> None:
    ended = run("serve", data_dir=tmp_path / "data", PARLEY_HOST="192.0.2.1", PARLEY_PORT="0")
    assert ended.returncode == 1
    assert "Correct PARLEY_HOST or PARLEY_PORT" in one_line(ended.stderr)


def test_a_data_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("serve", data_dir=tmp_path / "file" / "data", cwd=tmp_path, PARLEY_PORT="0")
    assert ended.returncode == 1
    assert "Set PARLEY_DATA_DIR to a directory you can write" in one_line(ended.stderr)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_that_does_not_answer_is_one_clear_line(tmp_path: Path, command: str) -> None:
    url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/parley"
    ended = run(
        command,
        data_dir=tmp_path / "data",
        DATABASE_URL=url,
        REDIS_URL="redis://127.0.0.1:1",
        PARLEY_PORT="0",
    )
    assert ended.returncode == 1
    line = one_line(ended.stderr)
    assert "Start it, correct DATABASE_URL, or unset DATABASE_URL" in line
    assert "hunter2" not in line


def test_a_database_that_is_not_there_is_one_clear_line(tmp_path: Path, database_url: str) -> None:
    missing = database_url.replace("/test_", "/missing_")
    ended = run("migrate", data_dir=tmp_path / "data", DATABASE_URL=missing, REDIS_URL="redis://127.0.0.1:1")
    assert ended.returncode == 1
    assert "createdb missing_" in one_line(ended.stderr)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_schema_newer_than_the_code_is_refused(
    tmp_path: Path, database_url: str, redis_url: str, query: Query, command: str
) -> None:
    query("UPDATE alembic_version SET version_num = '9999'")
    ended = run(
        command, data_dir=tmp_path / "data", DATABASE_URL=database_url, REDIS_URL=redis_url, PARLEY_PORT="0"
    )
    assert ended.returncode == 1
    assert "newer schema" in one_line(ended.stderr)
    assert query("SELECT version_num FROM alembic_version") == "9999"


def test_production_without_a_secret_is_refused(tmp_path: Path) -> None:
    ended = run("serve", data_dir=tmp_path / "data", PARLEY_ENVIRONMENT="production")
    assert ended.returncode == 2
    assert "PARLEY_SECRET_KEY is not set" in one_line(ended.stderr)


def test_an_env_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PARLEY_PORT=eighty\n")
    assert "PARLEY_PORT=eighty" in one_line(run("serve", data_dir=tmp_path / "data").stderr)


def test_migrate_makes_the_schema(tmp_path: Path, empty_database_url: str) -> None:
    ended = run(
        "migrate",
        data_dir=tmp_path / "data",
        DATABASE_URL=empty_database_url,
        REDIS_URL="redis://127.0.0.1:1",
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("The schema is at revision ")


def admin(
    tmp_path: Path, database_url: str, *more: str, password: str = "correct horse"
) -> tuple[int, str, str]:
    ended = run(
        *(
            "create-admin",
            "--username",
            "Root_1",
            "--email",
            "root@example.com",
            "--password",
            password,
            *more,
        ),
        data_dir=tmp_path / "data",
        DATABASE_URL=database_url,
        REDIS_URL="redis://127.0.0.1:1",
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_create_admin_makes_an_account_with_every_permission(
    tmp_path: Path, database_url: str, query: Query
) -> None:
    status, told, _ = admin(tmp_path, database_url)
    assert status == 0
    assert "root_1 is an administrator" in told
    assert query("SELECT permissions FROM users WHERE username = 'root_1'") == 3
    status, _, complaint = admin(tmp_path, database_url)
    assert status == 1
    assert one_line(complaint) == "parley: this username is taken.\n"


def test_create_admin_names_what_is_wrong(tmp_path: Path, database_url: str, query: Query) -> None:
    status, _, complaint = admin(tmp_path, database_url, password="short")
    assert status == 1
    assert "--password must be 8 to 1,024 bytes" in one_line(complaint)
    assert query("SELECT count(*) FROM users") == 0


def test_create_tenant_makes_a_place_for_accounts_of_its_own(
    tmp_path: Path, database_url: str, query: Query
) -> None:
    ended = run(
        *("create-tenant", "--slug", "acme", "--name", "Acme"),
        data_dir=tmp_path / "data",
        DATABASE_URL=database_url,
        REDIS_URL="redis://127.0.0.1:1",
        PARLEY_BASE_DOMAIN="chat.example.com",
    )
    assert ended.returncode == 0, ended.stderr
    assert "acme.chat.example.com" in ended.stdout
    status, _, _ = admin(tmp_path, database_url, "--tenant", "acme")
    assert status == 0
    assert query("SELECT t.slug FROM users u JOIN tenants t ON t.id = u.tenant_id") == "acme"


def test_create_admin_promises_nothing_for_an_account_that_exists(tmp_path: Path) -> None:
    told = " ".join(run("create-admin", "--help", data_dir=tmp_path / "data").stdout.split())
    assert "Make a new account that holds every permission. One that exists already is left as it is." in told


def test_new_epoch_makes_former_cursors_void(tmp_path: Path, database_url: str, query: Query) -> None:
    former = query("SELECT epoch FROM log_heads")
    ended = run(
        "new-epoch", data_dir=tmp_path / "data", DATABASE_URL=database_url, REDIS_URL="redis://127.0.0.1:1"
    )
    assert ended.returncode == 0, ended.stderr
    assert "Restart every instance" in ended.stdout
    assert query("SELECT epoch FROM log_heads") != former


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """What is started here may open that many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_doctor_tells_of_too_few_descriptors(tmp_path: Path) -> None:
    with descriptors(1024):
        ended = run("doctor", data_dir=tmp_path / "data")
    assert ended.returncode == 0, ended.stdout
    assert "unsafe   descriptors      ulimit -n is 1024" in ended.stdout


@pytest.mark.parametrize(("limit", "warned"), [(1024, True), (4096, False)])
def test_a_start_warns_of_too_few_descriptors(
    tmp_path: Path, database_url: str, redis_url: str, limit: int, warned: bool
) -> None:
    with descriptors(limit):
        instance = Instance(
            tmp_path / "data",
            DATABASE_URL=database_url,
            REDIS_URL=redis_url,
            PARLEY_DRAIN_GRACE_SECONDS="0",
        )
    with instance:
        instance.ready()
        assert ("few_descriptors" in instance.log()) is warned
        assert instance.stop() == 0


def test_doctor_finds_nothing_wrong_with_the_defaults_and_starts_nothing(tmp_path: Path) -> None:
    ended = run("doctor", data_dir=tmp_path / "data")
    assert ended.returncode == 0, ended.stdout
    assert "broken" not in ended.stdout
    assert "will be made at the first start" in ended.stdout
    assert not (tmp_path / "data").exists()


def test_doctor_looks_at_embedded_services_that_run(
    services: EmbeddedServices, template_database: str
) -> None:
    ended = run("doctor", data_dir=services.data_dir)
    assert ended.returncode == 0, ended.stdout
    assert "ok       PostgreSQL       18." in ended.stdout
    assert "ok       Redis            " in ended.stdout
    assert "not running" not in ended.stdout
    assert "the newest" in ended.stdout


def test_doctor_says_what_is_set_and_reachable_without_telling_secrets(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    secret = "b3f09a6e1c5d47829be0f3ac61d85e7743a0c9d21f8e6b5"
    ended = run(
        "doctor",
        data_dir=tmp_path / "data",
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        PARLEY_SECRET_KEY=secret,
    )
    assert ended.returncode == 0, ended.stdout
    assert "the newest" in ended.stdout
    assert ended.stdout.count("environment") >= 3
    assert secret not in ended.stdout


def test_doctor_fails_where_something_is_broken_and_names_what_is_unsafe(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    key = data_dir / "secret_key"
    key.write_text("0" * 64)
    key.chmod(0o644)
    ended = run(
        "doctor",
        data_dir=data_dir,
        DATABASE_URL=f"postgresql://me:hunter2@127.0.0.1:{free_port()}/parley",
        REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
        PARLEY_RATE_LIMITS="off",
        PARLEY_ALLOWED_ORIGINS="*",
        PARLEY_TRUSTED_PROXIES="0.0.0.0/0",
        PARLEY_HOST="0.0.0.0",
        PARLEY_PROT="9000",
    )
    assert ended.returncode == 1
    assert "hunter2" not in ended.stdout
    for expected in (
        "broken   PostgreSQL",
        "broken   Redis",
        "unsafe   rate limits",
        "unsafe   passwords",
        "unsafe   origins",
        "unsafe   proxies",
        "unsafe   environment",
        f"chmod 600 {key}",
        "did you mean PARLEY_PORT?",
    ):
        assert expected in ended.stdout


def test_the_secret_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = with_secret_key(Settings(data_dir=tmp_path / "data"))
    second = with_secret_key(Settings(data_dir=tmp_path / "data"))
    path = tmp_path / "data" / "secret_key"
    assert first.secret_key == second.secret_key
    assert first.secret_key is not None
    assert len(first.secret_key.get_secret_value()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == os.geteuid()
