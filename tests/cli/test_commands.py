"""The commands against a real host (tests/lab/bed.py), as a person runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hostnet.agent.linux.process import PidFile
from hostnet.cli.main import INTERRUPTED, OK, UNREACHED, USAGE, WRONG, main

from tests.cli.conftest import PROGRAM, Terminal
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ssh.world import World


def test_a_host_that_holds_nothing(terminal: Terminal) -> None:
    """It says so, and leaves nothing behind."""
    done = terminal.run("status")
    assert (done.returncode, done.stderr) == (OK, "")
    assert "hostnet has no resources here" in done.stdout
    assert terminal.run("restore").returncode == OK
    assert "nothing to watch for" in terminal.run("watch").stdout
    assert not terminal.provider.directory.exists() or not list(terminal.provider.directory.iterdir())


def test_status_tells_who_has_what_and_what_is_wrong(terminal: Terminal) -> None:
    """Owners with their stacks, objects, members, drift in words, counters; `restore` repairs what it showed."""
    terminal.stack.up(PROGRAM)
    assert "all as declared" in terminal.run("status").stdout
    assert terminal.run("status", "--check").returncode == OK
    terminal.bed.host.ip("address del 10.0.0.1/24 dev br-a", "link delete tap-web")
    terminal.bed.switch("net.ipv4.ip_forward", "0")
    terminal.bed.nft("flush map inet hostnet dnat_port4\n")
    assert terminal.run("status", "--check", "--json").returncode == WRONG
    done = terminal.run("status")
    assert done.returncode == OK
    for words in (
        *("lab/lab", "br-a", "address 10.0.0.1/24 is missing", "TAP tap-web does not exist"),
        *("IPv4 forwarding is off", "tcp port 80 is not forwarded"),
    ):
        assert words in done.stdout, done.stdout
    data = json.loads(terminal.run("status", "--json").stdout)
    drift = {each["name"]: each["drift"] for each in data["resources"]}
    assert "tcp port 80 is not forwarded" in drift["web"]
    assert {each["id"]: each["packets"] for each in data["portForwards"]}.keys() == {
        "eth0/ipv4/tcp/80",
        "eth0/ipv4/tcp/8000:8002",
    }
    done = terminal.run("restore")
    assert "put back 6 resources" in done.stdout, done.stderr
    data = json.loads(terminal.run("status", "--json").stdout)
    assert [each["drift"] for each in data["resources"] if each["drift"]] == []


def test_restore_starts_the_watcher_again(terminal: Terminal) -> None:
    """A dead watcher is drift, and status and doctor show it."""
    terminal.stack.up(PROGRAM)
    file = PidFile(next(terminal.provider.directory.glob("*.watch.pid")))
    process = file.read()
    assert process is not None
    process.stop()
    done = terminal.run("status", "--check")
    assert (done.returncode, "No process attaches new interfaces" in done.stdout) == (WRONG, True)
    done = terminal.run("doctor")
    assert done.returncode == WRONG
    assert "`hostnet restore`" in done.stdout
    assert terminal.run("restore").returncode == OK
    assert file.read() is not None


def test_doctor_finds_what_there_is(terminal: Terminal) -> None:
    """What the kernel can is tried; a chain that drops is named; nothing of the host is touched."""
    terminal.bed.nft(
        "add table inet mine\nadd chain inet mine passing { type filter hook forward priority 0; policy drop; }\n"
    )
    before = terminal.bed.snapshot()
    done = terminal.run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert terminal.bed.snapshot() == before
    for name in ("nftables", "NAT", "concatenated maps", "hostnet's own rules", "bridges", "TAPs", "clock", "state"):
        assert checks[name]["level"] == "ok", checks[name]
    assert "inet mine passing drops" in checks["firewall"]["found"]
    assert done.returncode == (WRONG if any(check["level"] == "fail" for check in checks.values()) else OK)
    assert all(check["fix"] for check in checks.values() if check["level"] in ("warn", "fail"))


@pytest.mark.parametrize("kind", ["text", "dot", "svg", "html"])
def test_graph(terminal: Terminal, tmp_path: Path, kind: str) -> None:
    """Everything is in each form of it, and behind what it is behind."""
    terminal.stack.up(PROGRAM)
    file = tmp_path / "graph"
    assert terminal.run("graph", "--format", kind, "--output", str(file)).returncode == OK
    text = file.read_text()
    for word in ("eth0", "NAT nat", "br-a", "gl-1", "gl-2", "tap-web", "web", "10.0.0.77", "fd12::1/64"):
        assert word in text
    if kind == "svg":
        root = ET.fromstring(text)  # noqa: S314 - our own
        boxes = [box for box in root if box.tag.endswith("rect")]
        assert len(boxes) == len(json.loads(terminal.run("graph", "--json").stdout)["nodes"])
        places = {(box.get("x"), box.get("y")) for box in boxes}
        assert len(places) == len(boxes)
    if kind == "text":
        assert "      └─ br-a  10.0.0.1/24, fd12::1/64\n         ├─ gl-1\n" in text


def test_watch_in_the_foreground_takes_over_and_hands_back(terminal: Terminal) -> None:
    """It says what it does; the background's watcher rests meanwhile, and goes on after Ctrl-C."""
    terminal.stack.up(PROGRAM)
    file = PidFile(next(terminal.provider.directory.glob("*.watch.pid")))
    first = file.read()
    watch = subprocess.Popen(terminal.argv("watch"), env=terminal.environment, stdout=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    assert watch.stdout.readline() == "attaching gl-* to br-a\n"
    terminal.bed.host.ip("tuntap add gl-9 mode tap")
    assert watch.stdout.readline() == "attached gl-9 to br-a\n"
    assert file.read() != first
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == INTERRUPTED
    last = file.read()
    assert last is not None
    assert last != first
    assert "watch" in Path(f"/proc/{last.pid}/cmdline").read_text()


def test_errors_are_one_line_and_an_exit_code(terminal: Terminal) -> None:
    """A namespace that is not there, a host that does not answer, a command line that makes no sense."""
    done = subprocess.run(
        [*terminal.argv("status")[:4], "--netns", "hnt-none"],
        env=terminal.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == UNREACHED
    assert done.stderr.count("\n") == 1
    assert "ip netns add hnt-none" in done.stderr
    done = terminal.run("status", "--host", "a:b:c")
    assert done.returncode == USAGE


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("server", {"host": "server"}),
        ("admin@192.0.2.1:2222", {"host": "192.0.2.1", "user": "admin", "port": 2222}),
        ("root@[2001:db8::1]:22", {"host": "2001:db8::1", "user": "root", "port": 22}),
        ("[2001:db8::1]", {"host": "2001:db8::1"}),
    ],
)
def test_hosts(text: str, values: dict[str, Any]) -> None:
    """As ssh and URLs write them."""
    from hostnet.cli.arguments import host  # noqa: PLC0415 - beside what it is about

    assert host(text) == values


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a script's author need not look for them."""
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "exit codes" in capsys.readouterr().out


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A machine beside another, with a real sshd."""
    from tests.ssh.world import SERVER, World  # noqa: PLC0415 - it needs root and openssh

    if os.geteuid() != 0 or not Path("/usr/sbin/sshd").exists():
        pytest.skip("needs root and openssh-server")
    world = World(tmp_path)
    try:
        world.server.start()
        (tmp_path / "home" / ".ssh").mkdir(parents=True)
        known = f"{SERVER} {world.server.host_key}\n"
        (tmp_path / "home" / ".ssh" / "known_hosts").write_text(known)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        yield world
    finally:
        world.close()


@pytest.mark.parametrize("key", ["known", "given", "another"])
def test_over_ssh(server: World, terminal: Terminal, key: str) -> None:
    """`--host`: the same, on another machine, with its key known, or given by `--host-key`; nothing stays there."""
    argv = terminal.argv("status", "--json", "--host", "root@192.0.2.2", "--identity", str(server.key))[:-4]
    argv += ["--state-dir", str(server.directory / "state")]
    home = Path(os.environ["HOME"])
    if key != "known":
        (home / ".ssh" / "known_hosts").unlink()
        argv += ["--host-key", server.server.host_key if key == "given" else server.key.with_suffix(".pub").read_text()]
    done = server.client.call(
        lambda: subprocess.run(argv, env={**terminal.environment, "HOME": os.environ["HOME"]}, capture_output=True,
                               text=True, check=False, timeout=120)
    )  # fmt: skip
    if key == "another":
        assert (done.returncode, "host key mismatch" in done.stderr) == (UNREACHED, True)
        return
    assert done.returncode == OK, done.stderr
    assert json.loads(done.stdout)["host"] == "root@192.0.2.2"
    assert json.loads(done.stdout)["resources"] == []


_SENDS = """
import socket
server = socket.create_server(("10.0.0.77", 8001))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    try:
        while True:
            peer.sendall(bytes(65536))
    except OSError:
        pass
"""
_RECEIVES = """
import socket
peer = socket.create_connection(("192.0.2.2", 8001))
while peer.recv(65536):
    pass
"""


def test_top_shows_what_passes(terminal: Terminal) -> None:
    """A guest of a `match` sends to a client outside: its rates are shown, and what drifts."""
    terminal.stack.up(PROGRAM)
    lab = terminal.bed._namespaces
    outside, guest = lab.add("outside"), lab.add("guest")
    terminal.bed.host.ip(
        f"link set out0 netns {outside.name}", f"link add gl-8 type veth peer name eth0 netns {guest.name}"
    )
    outside.ip("address add 192.0.2.1/24 dev out0", "link set out0 up")
    guest.ip("link set eth0 up", "address add 10.0.0.77/24 dev eth0", "route add default via 10.0.0.1")
    until(lambda: terminal.bed.links()["gl-8"].master == "br-a")
    terminal.bed.host.ip("address del fd12::1/64 dev br-a")

    def start(argv: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(argv, env=terminal.environment, stdout=subprocess.PIPE, text=True)

    with contextlib.ExitStack() as stack:
        sender = stack.enter_context(guest.call(start, [sys.executable, "-c", _SENDS]))
        stack.callback(sender.kill)
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        receiver = stack.enter_context(outside.call(start, [sys.executable, "-c", _RECEIVES]))
        stack.callback(receiver.kill)
        live = stack.enter_context(start(terminal.argv("top", "--json", "--interval", "0.2")))
        stack.callback(live.kill)
        assert live.stdout is not None
        for line in live.stdout:
            found = json.loads(line)
            forwards = {each["name"]: each for each in found["forwards"]}
            guests = {each["link"]: each for each in found["guests"]}
            if guests.get("gl-8", {}).get("upload") and forwards["far"]["packets"] and found["drift"]:
                break
        assert found["forwards"][0] == forwards["far"]
        assert found["guests"][0] == guests["gl-8"]
        assert guests["gl-8"]["upload"] > guests["gl-8"]["download"] > 0
        assert forwards["web"]["bytes"] == 0
        assert found["drift"] == ["net: address fd12::1/64 is missing"]
        live.send_signal(signal.SIGINT)
        assert live.wait(60) == INTERRUPTED
    done = terminal.run("top", "--count", "2", "--interval", "0.1")
    assert (done.returncode, done.stderr) == (OK, "")
    for words in ("1 not as declared", "eth0/ipv4/tcp/8000:8002", "gl-8", "GUESTS"):
        assert done.stdout.count(words) == 2, done.stdout
    here, there = pty.openpty()
    argv = terminal.argv("top", "--count", "1", "--interval", "0.1")
    with subprocess.Popen(argv, env={**terminal.environment, "TERM": "xterm"}, stdout=there) as at_terminal:
        os.close(there)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while True:
                shown += os.read(here, 4096)
    os.close(here)
    assert at_terminal.returncode == OK
    alternate, back = shown.index(b"\x1b[?1049h"), shown.index(b"\x1b[?1049l")
    assert alternate < shown.index(b"GUESTS") < back
