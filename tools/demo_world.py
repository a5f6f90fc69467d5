"""The hosts of the demonstration: four network namespaces, with a web server in one and a microVM in another.

    client  192.0.2.20 ---+  uplink segment                 internet  198.51.100.10
                          |  192.0.2.0/24, 2001:db8::/64       |
    host    192.0.2.2 ----+---------------------- router ------+
            (eth0)

The v6 addresses are 2001:db8::20, ::2 and 2001:db8:1::10. The router has no route to the guest's networks, so a guest
gets an answer only if the host has replaced the guest's address with its own.
"""

import contextlib
import http.server
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.namespaces import Namespace, Namespaces
from tools.guest import qemu_argv

HOST4, HOST6 = "192.0.2.2", "2001:db8::2"
INTERNET4, INTERNET6 = "198.51.100.10", "2001:db8:1::10"
PATIENCE = 20.0  # s, for neighbour discovery or a server's answer
# Sysctls that change by themselves.
VOLATILE = ("nf_conntrack_count",)


class World:
    """The namespaces and the internet's web server, deleted at the end in any case."""

    def __init__(self) -> None:
        """Create them. What a killed demonstration left behind is deleted first."""
        self._ends = contextlib.ExitStack()
        self._namespaces = Namespaces()
        self._ends.callback(self._namespaces.close)
        self.seen: list[str] = []  # the addresses that the internet's web server saw
        try:
            self.router, self.internet, self.client, self.host = map(
                self._namespaces.add, ("router", "internet", "client", "host")
            )
            self._build()
            self._serve()
        except BaseException:
            self._ends.close()
            raise

    def __enter__(self) -> Self:
        """Return itself: all is there."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete all."""
        self._ends.close()

    def _build(self) -> None:
        self.router.ip(
            "link add uplink type bridge forward_delay 0",
            "link set uplink up",
            "address add 192.0.2.1/24 dev uplink",
            "address add 2001:db8::1/64 dev uplink nodad",
            "link add internet type veth peer name eth0 netns " + self.internet.name,
            "link set internet up",
            "address add 198.51.100.1/24 dev internet",
            "address add 2001:db8:1::1/64 dev internet nodad",
        )
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.router.sysctl("net.ipv6.conf.all.forwarding", 1)
        for namespace, number in ((self.host, "2"), (self.client, "20")):
            self.router.ip(
                f"link add {namespace.role} type veth peer name eth0 netns {namespace.name}",
                f"link set {namespace.role} master uplink up",
            )
            _connect(namespace, f"192.0.2.{number}/24", f"2001:db8::{number}/64", "192.0.2.1", "2001:db8::1")
        _connect(self.internet, f"{INTERNET4}/24", f"{INTERNET6}/64", "198.51.100.1", "2001:db8:1::1")

    def _serve(self) -> None:
        """Run the internet's web servers, one for each family: each answers a client with the client's address."""
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answer."""
                address = str(self.client_address[0])
                body = f"hello {address}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                seen.append(address)

            def log_message(self, *_: object) -> None:
                """Print nothing: `seen` is the log."""

        class Server6(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6

        for kind, address in ((http.server.ThreadingHTTPServer, INTERNET4), (Server6, INTERNET6)):
            server = self.internet.call(kind, (address, 80), Handler)
            self._ends.callback(server.server_close)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self._ends.callback(server.shutdown)

    def ask(self, url: str, patience: float = PATIENCE) -> str:
        """Fetch a page as the client, and try again until it is answered.

        Raises:
            OSError: No answer within `patience` (s).
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return self.client.call(_get, url)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def snapshot(self) -> dict[str, str]:
        """Everything on the host that hostnet may change: links, addresses, routes, rules, sysctls and processes."""
        commands = (
            "ip -o -details link show",
            "ip -o address show",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "nft list ruleset",
        )
        texts = {command: self.host.run(command) for command in commands}
        # Listed from outside: inside, the listing process would be one of them.
        texts["processes"] = subprocess.check_output(["ip", "netns", "pids", self.host.name], text=True)
        return texts | self.host.call(_sysctls)


def _connect(namespace: Namespace, address4: str, address6: str, gateway4: str, gateway6: str) -> None:
    # Otherwise the link-local address is tentative at the start and not at the end, which is a difference.
    namespace.sysctl("net.ipv6.conf.eth0.accept_dad", 0)
    namespace.ip(
        "link set eth0 up",
        f"address add {address4} dev eth0",
        f"address add {address6} dev eth0 nodad",
        f"route add default via {gateway4}",
        f"route add ::/0 via {gateway6}",
    )


def _get(url: str) -> str:
    # A proxy that the environment names is for the machine's own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=2) as answer:
        return str(answer.read().decode()).strip()


def _sysctls() -> dict[str, str]:
    """Every network sysctl of the calling thread's namespace."""
    found = {}
    for path in Path("/proc/sys/net").rglob("*"):
        if path.is_file() and path.name not in VOLATILE:
            with contextlib.suppress(OSError):  # some are write-only, some do not exist in a namespace
                found[str(path)] = path.read_text()
    return found


class MicroVm:
    """The test microVM, on a TAP of the host."""

    def __init__(self, host: Namespace, tap: str, mac: str, append: str) -> None:
        """Start it.

        Args:
            host: The namespace that has the TAP.
            tap: The TAP's name.
            mac: The guest's MAC address.
            append: The last part of its kernel's command line.
        """
        self.console: list[str] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] = host.call(_start, qemu_argv(tap, mac, append))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        for line in self._process.stdout:
            with self._news:
                self.console.append(line.strip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, text: str, patience: float) -> str:
        """Wait for the first line of the console that contains a text.

        Raises:
            TimeoutError: It did not come within `patience` (s), or the microVM ended; with the end of the console.
        """

        def found() -> str | None:
            return next((line for line in self.console if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), timeout=patience)
            line = found()
        if line is None:
            status = self._process.poll()
            state = "runs" if status is None else f"ended with exit status {status}"
            end = "\n".join(self.console[-15:])
            raise TimeoutError(f"no {text!r} from the microVM, which {state}; the end of its console:\n{end}")
        return line

    def stop(self) -> None:
        """Switch it off. If it is off already, that is no error."""
        self._process.kill()
        self._process.wait()


def _start(argv: list[str]) -> "subprocess.Popen[str]":
    # In a session of its own: Ctrl-C reaches the demonstration, which then ends it.
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def is_refused(world: World, address: str, port: int) -> bool:
    """Whether a connection from the client to a port is refused or times out."""

    def connect() -> bool:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            return True
        return False

    return world.client.call(connect)


@contextlib.contextmanager
def running(vm: MicroVm) -> Iterator[MicroVm]:
    """Switch the microVM off at the end, in any case."""
    try:
        yield vm
    finally:
        vm.stop()
