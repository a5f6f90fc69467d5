"""A pretended VMM: it carries frames between a TAP of a server and the `eth0` of a namespace, the guest.

QEMU opens one TAP; this program opens two, both with the virtio header, which passes through unchanged. In the guest, a
web server answers with the guest's name.

Arguments: the server's and the guest's namespace, and as JSON `tap`, `name`, `mac_address`, `addresses`, `gateway`.
"""

import ctypes
import fcntl
import http.server
import json
import os
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000  # <linux/if_tun.h>
FRAME = 65536 + 64


def enter(namespace: str) -> None:
    """Move this thread, and the processes that it starts from now on, into a named namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def open_tap(name: str) -> int:
    """Open a TAP in this namespace, or create it, and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


def set_up(guest: dict[str, Any]) -> None:
    """Configure the guest's interface with the TapBinding's outputs."""
    commands = [
        f"link set eth0 address {guest['mac_address']} up",
        *(f"address add {address} dev eth0" for address in guest["addresses"]),
        f"route add default via {guest['gateway']}",
    ]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def serve(name: str) -> None:
    """Run the guest's web server, in a thread."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            body = f"hello {self.client_address[0]}, this is {name}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = http.server.ThreadingHTTPServer(("", 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def carry(left: int, right: int) -> None:
    """Carry frames in both directions until a TAP is deleted."""
    others = {left: right, right: left}
    while True:
        for descriptor in select.select(list(others), [], [])[0]:
            os.write(others[descriptor], os.read(descriptor, FRAME))


def main(server: str, guest: str, settings: str) -> None:
    """Run the VM."""
    about = json.loads(settings)
    enter(server)
    outside = open_tap(about["tap"])
    enter(guest)
    inside = open_tap("eth0")
    set_up(about)
    serve(about["name"])
    print("it runs", flush=True)
    carry(outside, inside)


if __name__ == "__main__":
    main(*sys.argv[1:])
