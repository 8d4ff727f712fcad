"""A PostgreSQL of the tests' own, on the loopback; it is gone when they end."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "mlflow"
ACCOUNT = "postgres"  # Debian's; the server refuses to run as root


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    password: str
    programs: Path

    def database(self, name: str) -> str:
        """Make an empty database; returns its address, which names the driver for SQLAlchemy."""
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--username", USER]
        environment = os.environ | {"PGPASSWORD": self.password}
        subprocess.run([self.programs / "createdb", *where, name], env=environment, check=True)
        return f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server with data of its own, asking for a password, on a free port."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="vit-slim-pg-"))
    data, password_file = folder / "data", folder / "password"
    password = secrets.token_hex(16)
    password_file.write_text(password)
    if os.geteuid() == 0:
        for path in (folder, password_file):
            shutil.chown(path, ACCOUNT)
    port = free_port()
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    try:
        first = ["--username", USER, "--pwfile", password_file, "--auth", "scram-sha-256"]
        _run(folder, programs / "initdb", "--pgdata", data, *first)
        control = [programs / "pg_ctl", "--pgdata", data, "--wait", "--timeout", "120"]
        _run(folder, *control, "--log", folder / "log", "--options", settings, "start")
        try:
            yield Postgres(port, password, programs)
        finally:
            _run(folder, *control, "--mode", "fast", "stop")
    finally:
        shutil.rmtree(folder)


def _run(cwd: Path, *command: str | Path) -> None:
    """Run as an account that is not root."""
    other = ["runuser", "--user", ACCOUNT, "--"] if os.geteuid() == 0 else []
    # What pg_ctl starts would keep a pipe open: what is said goes to a file.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [*other, *command], cwd=cwd, stdout=said, stderr=subprocess.STDOUT, check=False
        )
        said.seek(0)
        assert done.returncode == 0, said.read()


def _programs() -> Path:
    """The newest of Debian's, which are not on the path."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    assert found, "no PostgreSQL; make test-services installs Debian's"
    return found[-1].parent


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
