"""A small file system of its own, that can be filled to the last byte and freed again.

As root it is ext4 on a loop device, else a tmpfs, else, for an ordinary user, a tmpfs in a user namespace. Where the
machine permits none of these, `mount` raises `NoMountError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from faults.services import ServiceError

_SMALLEST = 4096
_MINUTE = 60.0


class NoMountError(ServiceError):
    """The machine lets us mount nothing."""


class SmallDisk:
    """A `Place` for a cluster. `mount` first, `unmount` last; the directory must be reachable for everyone."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        self._mount = directory / "disk"
        self._image = directory / "disk.img"
        self._megabytes = megabytes
        self._holder: subprocess.Popen[bytes] | None = None
        self._root = self._mount
        self.kind = ""
        self.inside = self._mount / "data"
        self.prefix: Sequence[str] = ()

    @property
    def outside(self) -> Path:
        return self._root / "data"

    @property
    def free_bytes(self) -> int:
        """What an ordinary account may still write."""
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    def mount(self) -> None:
        """Makes it. Raises `NoMountError` with what the machine says."""
        self._mount.mkdir(parents=True, exist_ok=True)
        ways = (self._mount_loop, self._mount_tmpfs) if os.geteuid() == 0 else (self._mount_in_namespace,)
        said = []
        for way in ways:
            try:
                self.kind = way()
            except (OSError, subprocess.SubprocessError) as error:
                said.append(_words(error))
            else:
                return
        raise NoMountError("; ".join(said))

    def unmount(self) -> None:
        """Takes it away with all that is on it."""
        if self._holder is not None:
            self._holder.terminate()
            self._holder.wait(_MINUTE)
            self._holder = None
        elif self.kind:
            _run("umount", "--lazy", str(self._mount))
        self._image.unlink(missing_ok=True)
        self.kind = ""

    def fill(self) -> None:
        """Takes every free byte; may be called again for what has become free since."""
        ballast = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, step = os.fstat(ballast).st_size, 1 << 24
            while step >= _SMALLEST:
                try:
                    os.posix_fallocate(ballast, size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                else:
                    size += step
        finally:
            os.close(ballast)

    def free(self) -> None:
        """Gives back what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self._root / "ballast"

    def _mount_loop(self) -> str:
        with self._image.open("wb") as image:
            image.truncate(self._megabytes << 20)
        # No block is kept for root, so that what is full for PostgreSQL is full for us.
        _run("mke2fs", "-q", "-t", "ext4", "-m", "0", str(self._image))
        _run("mount", "-o", "loop", str(self._image), str(self._mount))
        self._mount.chmod(0o755)
        return "ext4 on a loop device"

    def _mount_tmpfs(self) -> str:
        _run(
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={self._megabytes}m,mode=755",
            "parley-faults",
            str(self._mount),
        )
        return "tmpfs"

    def _mount_in_namespace(self) -> str:
        """PostgreSQL refuses to be root, also one of a namespace, so it gets a second one inside, as somebody."""
        options = f"size={self._megabytes}m,mode=700"
        script = f'mount -t tmpfs -o {options} parley-faults "$1" && echo mounted && exec sleep infinity'
        holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(self._mount)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"mounted\n":
            holder.wait(_MINUTE)
            raise OSError(holder.stderr.read().decode(errors="replace").strip())
        self._holder = holder
        self._root = Path(f"/proc/{holder.pid}/root{self._mount}")
        enter = ["nsenter", f"--target={holder.pid}", "--user", "--mount", "--preserve-credentials"]
        self.prefix = (*enter, "unshare", "--user", "--map-user=1000", "--map-group=1000")
        return "tmpfs in a user namespace"


def size_of(directory: Path) -> int:
    """Bytes on disk of all files below it; files that go away meanwhile do not count."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


def _run(*argv: str) -> None:
    if shutil.which(argv[0]) is None:
        raise FileNotFoundError(errno.ENOENT, "not installed", argv[0])
    for left in (2, 1, 0):
        try:
            subprocess.run(argv, check=True, capture_output=True, timeout=_MINUTE)
        except subprocess.CalledProcessError:
            if argv[0] != "umount" or not left:
                raise
            time.sleep(0.5)
        else:
            return


def _words(error: OSError | subprocess.SubprocessError) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else b""
    return (said or b"").decode(errors="replace").strip() or str(error)
