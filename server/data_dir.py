"""The data directory and the secret key that is made in it at the first start."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from server.settings import MIN_SECRET_BYTES, Settings
from server.startup import StartupError

SECRET_KEY_FILE = "secret_key"  # noqa: S105  (a file's name)
_LOCKS = "locks"


def prepare_data_dir(data_dir: Path) -> Path:
    """Makes the data directory where it is missing and proves that it can be written.

    Returns the directory of its lock files. Blocks; raises `StartupError`.
    """
    try:
        # Root runs PostgreSQL under another account, which has to pass through.
        data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        locks = data_dir / _LOCKS
        locks.mkdir(mode=0o700, exist_ok=True)
        probe = locks / f"probe-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise data_dir_error(data_dir, error) from error
    return locks


def with_secret_key(settings: Settings) -> Settings:
    """The settings with their secret key: the given one, else that of the data directory, made if missing.

    Instances that start together on one data directory get the same one. Blocks; raises `StartupError`.
    """
    if settings.secret_key is not None:
        return settings
    prepare_data_dir(settings.data_dir)
    path = settings.data_dir / SECRET_KEY_FILE
    try:
        if not path.exists():
            _write_once(path, secrets.token_hex(MIN_SECRET_BYTES))
        key = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise data_dir_error(settings.data_dir, error) from error
    if len(key) < MIN_SECRET_BYTES:
        raise StartupError(
            f"{path} holds no key of {MIN_SECRET_BYTES} characters or more.",
            "Restore it from the backup, or do what docs/operations.md says of a key that was lost.",
        )
    return settings.model_copy(update={"secret_key": SecretStr(key)})


def _write_once(path: Path, text: str) -> None:
    """Writes a private file whole or not at all; whoever comes first wins."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        draft.unlink()


def data_dir_error(data_dir: Path, error: OSError) -> StartupError:
    """What an operating system's error about the data directory means to the operator."""
    where = error.filename or data_dir
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StartupError(
            f"no space left for {where}.", "Free some, or set PARLEY_DATA_DIR to another disk."
        )
    reason = (error.strerror or str(error)).lower()
    return StartupError(
        f"the data directory {data_dir} cannot be used: {reason} ({where}).",
        "Set PARLEY_DATA_DIR to a directory you can write, or fix its owner.",
    )
