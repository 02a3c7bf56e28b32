"""A real PostgreSQL server of a test's own, whose nodes have their databases there."""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.parse

import psycopg2
from pyln.testing.db import Sqlite3Db
from pyln.testing.utils import drop_unused_port, reserve_unused_port

from harness import wait_for

# With what has to be escaped in a URI.
PASSWORD = "p@ss:w/rd%?"
IN_URI = urllib.parse.quote(PASSWORD, safe="")


def find_server():
    """Where `initdb` and `postgres` are: on PATH, or where Debian has them, the newest first. None if nowhere."""
    on_path = shutil.which("postgres")
    folders = [pathlib.Path(on_path).resolve().parent] if on_path else []
    installed = pathlib.Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(installed, key=lambda path: [int(part) for part in path.parent.name.split(".")], reverse=True)
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    return None


def somebody_else():
    """Whom the server runs as, for `subprocess`: PostgreSQL refuses to be root's."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = known.get("postgres") or known["nobody"]
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Server:
    """Stands in for pyln-testing's provider of databases. Each node has a role without privileges, and a database of that
    role's; `only`: node numbers that do, all others have SQLite."""

    def __init__(self, programs, only=None):
        self.programs = programs
        self.only = only
        self.account = somebody_else()
        self.port = None
        self.process = None
        self.lock = threading.Lock()
        # Short, for the socket's path; and not below a directory that only root may enter.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="cln-pg-"))

    def start(self):
        password = self.root / "password"
        password.write_text(PASSWORD + "\n")
        if self.account:
            for path in (self.root, password):
                os.chown(path, self.account["user"], self.account["group"])
        made = self.program(
            "initdb", "--auth=scram-sha-256", "--username=postgres", f"--pwfile={password}", "--encoding=UTF8",
            "--no-locale", "--no-sync", stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
        )
        said, _ = made.communicate()
        assert made.returncode == 0, said
        self.port = reserve_unused_port()
        self.run()

    def program(self, name, *options, **more):
        command = [str(self.programs / name), "-D", str(self.root / "data"), *options]
        return subprocess.Popen(command, cwd=self.root, stdin=subprocess.DEVNULL, **self.account, **more)

    def run(self):
        """Starts it, also again after `halt`."""
        settings = ["listen_addresses=127.0.0.1", "fsync=off", f"unix_socket_directories={self.root}"]
        options = [word for setting in settings for word in ("-c", setting)]
        with open(self.root / "log", "ab") as log:
            self.process = self.program("postgres", "-p", str(self.port), *options, stdout=log, stderr=log)
        wait_for(self.answers)

    def answers(self):
        assert self.process.poll() is None, (self.root / "log").read_text()
        with contextlib.suppress(psycopg2.OperationalError):
            self.query("SELECT 1")
            return True
        return False

    def halt(self):
        """The server goes, and every connection with it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.halt()
        if self.port is not None:
            drop_unused_port(self.port)
        shutil.rmtree(self.root)

    def query(self, text, *params, database="postgres"):
        """As the superuser."""
        given = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "password": PASSWORD, "dbname": database}
        with contextlib.closing(psycopg2.connect(**given)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(text, params or None)
                return cursor.fetchall() if cursor.description else []

    def get_db(self, node_directory, testname, node_id):
        if self.only is not None and node_id not in self.only:
            return Sqlite3Db(os.path.join(node_directory, "lightningd.sqlite3"))
        name = f"cln_{node_id}"
        # Nodes start at the same time, and a template is copied for one after the other.
        with self.lock:
            self.query(f"CREATE ROLE {name} LOGIN PASSWORD %s", PASSWORD)
            self.query(f"CREATE DATABASE {name} OWNER {name}")
        return Database(self, name, socket=node_id % 2 == 0)

    def hide(self, name, table, column):
        """The role of a node may read all of a table but one column."""
        columns = "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'"
        rows = self.query(columns, table, database=name)
        others = ", ".join(row[0] for row in rows if row[0] != column)
        assert len(rows) > 1 and (column,) in rows, rows
        self.query(f"REVOKE SELECT ON {table} FROM {name}", database=name)
        self.query(f"GRANT SELECT ({others}) ON {table} TO {name}", database=name)

    def show(self, name, table):
        """What `hide` has hidden can be read again."""
        self.query(f"GRANT SELECT ON {table} TO {name}", database=name)

    def connections_of_plugins(self):
        return self.query("SELECT usename, state FROM pg_stat_activity WHERE application_name = 'cln-factory'")


class Database:
    """One node's. In both forms of a DSN: a URI and TCP, keywords and a socket."""

    def __init__(self, server, name, socket):
        self.server, self.name, self.socket = server, name, socket
        self.provider = None

    def get_dsn(self):
        port = self.server.port
        if self.socket:
            place = f"host={self.server.root} port={port}"
            return f"postgres://{place} user={self.name} password='{PASSWORD}' dbname={self.name}"
        return f"postgres://{self.name}:{IN_URI}@127.0.0.1:{port}/{self.name}"

    def query(self, text):
        return self.server.query(text, database=self.name)

    def stop(self):
        pass
