"""What a fleet's workers share, on this machine: a queue's broker, and the stores that Pulumi's state can be in.

Redis and PostgreSQL listen on sockets in a temporary directory, the S3 server on the loopback of a namespace. None of
them is the machine's own; all end with the test.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.lab.namespaces import Namespace, temporary_directory
from tests.lab.waiting import until
from tools.golang import s3_server

S3_PORT = 9000
BUCKET = "state"
_POSTGRES = "postgres"  # the user that Debian's package makes: PostgreSQL refuses to run as root


class Services:
    """The servers that a test has started. They run in a namespace, for as long as the test."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.directory = temporary_directory("services")
        self.directory.chmod(0o711)
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)

    def _start(self, argv: list[str], word: str = "", *, end: int = signal.SIGTERM, **how: Any) -> None:
        """Start a server, which ends with the test.

        Args:
            argv: The server.
            word: What it says when it serves; "": nothing, it is not waited for.
            end: The signal that ends it.
            how: Further arguments of `Popen`.

        Raises:
            AssertionError: It ends without having said that.
        """
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = self._namespace.call(lambda: subprocess.Popen(argv, text=True, **quiet, **how))
        assert process.stdout is not None
        self._stack.callback(process.wait)
        self._stack.callback(process.send_signal, end)
        said: list[str] = []
        while word and word not in "".join(said[-1:]):
            said.append(process.stdout.readline())
            assert said[-1], f"{argv[0]} ended: {''.join(said)}"
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it

    def redis(self) -> dict[str, str]:
        """Start the broker; the workers' environment for it."""
        path = self.directory / "redis.sock"
        argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(self.directory)]
        self._start(argv, "eady to accept connections")
        return {"FLEET_BROKER": f"unix://{path}"}

    def postgres(self) -> dict[str, str]:
        """Start a store; Pulumi's environment for it. The user is known by the socket, so there is no password."""
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        data = self.directory / "postgres"
        data.mkdir()
        shutil.chown(data, _POSTGRES)
        how: dict[str, Any] = {"user": _POSTGRES, "extra_groups": [], "cwd": data}
        made = [programs / "initdb", "--pgdata", data, "--username=root", "--auth=peer", "--no-sync", "--no-locale"]
        subprocess.run(list(map(str, made)), check=True, capture_output=True, **how)
        settings = {"listen_addresses": "", "unix_socket_directories": data, "fsync": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        argv = [str(programs / "postgres"), "-D", str(data), *options]
        self._start(argv, "ready to accept connections", end=signal.SIGINT, **how)
        data.chmod(0o711)  # root alone needs the socket
        subprocess.run([programs / "createdb", "--host", data, "pulumi"], check=True, capture_output=True)
        return {"PULUMI_BACKEND_URL": f"postgres://root@/pulumi?host={data}"}

    def s3(self) -> dict[str, str]:
        """Start a store, with a bucket; Pulumi's environment for it."""
        objects, about = self.directory / "s3", self.directory / "attributes"
        (objects / BUCKET).mkdir(parents=True)
        about.mkdir()
        name, secret = "test", secrets.token_hex()
        argv = [str(s3_server()), "--port", f"127.0.0.1:{S3_PORT}", "posix", "--sidecar", str(about), str(objects)]
        self._start(argv, env=os.environ | {"ROOT_ACCESS_KEY": name, "ROOT_SECRET_KEY": secret})
        self._namespace.call(until, _listens)
        options = f"endpoint=http://127.0.0.1:{S3_PORT}&s3ForcePathStyle=true&region=us-east-1"
        keys = {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret}
        return {"PULUMI_BACKEND_URL": f"s3://{BUCKET}?{options}", **keys}

    def ssh_agent(self, key: Path) -> dict[str, str]:
        """Start an agent with a key; the workers' environment for it."""
        path = self.directory / "agent.sock"
        self._start(["ssh-agent", "-D", "-a", str(path)])
        until(path.exists)
        environment = {"SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True, capture_output=True)
        return environment

    def close(self) -> None:
        """End them all."""
        self._stack.close()


def _listens() -> bool:
    """Whether the S3 server listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", S3_PORT)) == 0
