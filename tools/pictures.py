"""Draws the pictures of docs/cli.md from a real run, as root: `python -m tools.pictures`.

A host in a network namespace has a stack on it, guests that send, and a few things that are not as declared.
docs/pictures/graph.png and graph-search.png are what a browser shows of `hostnet graph --format html`; top.svg is a
screen of `hostnet top`.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hostnet.cli import top
from rich.console import Console

from tools.browser import browser
from tools.docs_listing import Stage
from tools.paths import CHECKOUT

PICTURES = CHECKOUT / "docs" / "pictures"
LABEL = "root@203.0.113.5"
_COLUMNS, _LINES = 100, 24
_PROGRAM = """
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("net", name="vmbr", addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"])
vms = hostnet.TapBinding("vms", match="vm-*", bridge=bridge.name)
for number, name in enumerate(("web", "mail", "db", "build"), 2):
    addresses = [f"10.0.0.{number}", f"fd12:3456:789a::{number}"]
    guest = {"hostname": name, "addresses": addresses}
    hostnet.TapBinding(name, name=f"tap-{name}", bridge=bridge.name, guest=guest)
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], enable_ipv6=True, dmz_host="10.0.0.5")
for name, port, destination in (
    ("http", 80, "10.0.0.2:8080"), ("https", 443, "10.0.0.2:8443"), ("https6", 443, "[fd12:3456:789a::2]:8443"),
    ("smtp", 25, "10.0.0.3"), ("files", 9000, "10.0.0.77:9000"),
):
    hostnet.PortForward(name, nat_gateway=nat.id, source_port=port, destination=destination)
"""
_SENDS = """
import socket
server = socket.create_server(("10.0.0.77", 9000))
print("ready", flush=True)
peer, _ = server.accept()
try:
    while True:
        peer.sendall(bytes(65536))
except OSError:
    pass
"""
_RECEIVES = """
import socket
peer = socket.create_connection(("192.0.2.2", 9000))
while peer.recv(65536):
    pass
"""


@contextlib.contextmanager
def _traffic(stage: Stage) -> Iterator[None]:
    """A guest of the `match` sends to a client outside, in namespaces of their own."""
    outside, guest = f"{stage.namespace}-o", f"{stage.namespace}-g"
    with contextlib.ExitStack() as stack:

        def start(namespace: str, program: str) -> subprocess.Popen[str]:
            argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            return process

        for namespace in (outside, guest):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", namespace], check=True)
        for command in (
            f"ip link set wire netns {outside}",
            f"ip -n {outside} address add 192.0.2.1/24 dev wire",
            f"ip -n {outside} link set wire up",
            f"ip link add vm-files type veth peer name eth0 netns {guest}",
            f"ip -n {guest} address add 10.0.0.77/24 dev eth0",
            f"ip -n {guest} link set eth0 up",
            f"ip -n {guest} route add default via 10.0.0.1",
            "until ip -brief link show master vmbr | grep -q vm-files; do sleep 0.1; done",
        ):
            stage.run(command)
        sender = start(guest, _SENDS)
        next(iter(sender.stdout or ()))
        start(outside, _RECEIVES)
        yield


def _draw_top(stage: Stage) -> None:
    """Draw the last of three samples, which the host's own command took."""
    sample = json.loads(stage.run("hostnet top --json --interval 1 --count 3").splitlines()[-1])
    sample |= {
        "host": LABEL,
        "forwards": [top.ForwardRate(**each) for each in sample["forwards"]],
        "guests": [top.GuestRate(**each) for each in sample["guests"]],
    }
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=_COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(top.screen(top.Sample(**sample), _LINES))
        svg = console.export_svg(title="hostnet top", unique_id="top")
    # The picture names fonts of a web server, which a document must not load.
    (PICTURES / "top.svg").write_text(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL), encoding="utf-8")


def _draw_graph(stage: Stage) -> None:
    """Take the pictures of the page: whole, and with a search."""
    page = stage.folder / "graph.html"
    stage.run(f"hostnet graph --format html --output {page}")
    text = page.read_text(encoding="utf-8").replace(f"this machine (namespace {stage.namespace})", LABEL)
    page.write_text(text, encoding="utf-8")
    with browser() as tab:
        tab.open(page.as_uri(), height=1180)
        tab.screenshot(PICTURES / "graph.png")
        tab.open(f"{page.as_uri()}?#search=10.0.0.77", height=860)
        tab.screenshot(PICTURES / "graph-search.png")


def main() -> int:
    """Draw all."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hostnet-pictures-") as folder:
        stage = Stage(Path(folder))
        try:
            stage.open()
            (stage.folder / "__main__.py").write_text(_PROGRAM, encoding="utf-8")
            stage.run("pulumi up --yes --skip-preview")
            with _traffic(stage):
                stage.run("ip address del fd12:3456:789a::1/64 dev vmbr; ip link delete tap-build")
                stage.run("ip link add veth-lab type veth peer name veth-far; ip link set veth-lab master vmbr up")
                _draw_top(stage)
                _draw_graph(stage)
            stage.run("pulumi destroy --yes --skip-preview")
        finally:
            stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
