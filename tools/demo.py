"""`make demo`: hostnet at work with a real microVM, in network namespaces that are deleted at the end.

It changes nothing in the machine's own network, in the checkout, or in the person's Pulumi settings. Its exit status is
0 only if every step did what its heading says.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from tools.demo_pulumi import Pulumi, PulumiError
from tools.demo_world import HOST4, HOST6, INTERNET4, INTERNET6, PATIENCE, MicroVm, World, is_refused, running
from tools.guest import READY
from tools.paths import VENV_PYTHON, missing_hosts, system_program
from tools.steps import SetupError

TAP = "vm-web"
BOOT_PATIENCE = 180.0  # s; it takes 4 without KVM on a machine that does nothing else
OUTSIDE = (f"http://{INTERNET4}/", f"http://[{INTERNET6}]/")
TURNED = 130  # exit status after Ctrl-C, as a shell has it

INTRO = """\
hostnet makes the network of a Linux host part of a Pulumi stack. This demonstration builds the network of a host
that runs a microVM. Host, client, router and internet are network namespaces; the microVM is a real one, in QEMU:

    client 192.0.2.20 ------+                               internet 198.51.100.10
                            |                                   |
    [bold]host[/] 192.0.2.2 (eth0) --+------------- router -------------+
     |
     +-- microvm (bridge, 10.0.0.1) -- vm-web (TAP) -- [bold]microVM[/] 10.0.0.2
"""

REAL_HOST = """\
To build the same network on this machine itself, run as root, at the top of this checkout:

{path}    pulumi login --local              # or wherever you keep your stacks
    pulumi stack init mine
    pulumi config set target machine  # without this: in a network namespace that the stack creates
    pulumi up

It forwards ports 80 and 443 of the default route's interface to 10.0.0.2. `pulumi destroy` undoes all of it.
How to write a program of your own: docs/developing.md\
"""
SET_PATH = "    export PATH=$(python3 -m tools.setup env)\n"


class DemoError(Exception):
    """A step did not do what its heading says."""


def check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - it reads as an assertion
    """Stop the demonstration unless something holds.

    Raises:
        DemoError: It does not.
    """
    if not holds:
        raise DemoError(otherwise)


class Story:
    """Writes to the terminal what happens."""

    def __init__(self, console: Console) -> None:
        """Nothing has happened yet."""
        self._console = console
        self._steps = 0

    def step(self, title: str, why: str) -> None:
        """Print the heading of a step."""
        self._steps += 1
        self._console.print()
        self._console.print(Rule(f"[bold]{self._steps}. {escape(title)}[/]", align="left"))
        self._console.print(escape(why))

    def command(self, where: str, line: str) -> None:
        """Show a command before it runs."""
        self._console.print(f"\n[bold cyan]{escape(where)}$[/] [bold]{escape(line)}[/]")

    def line(self, text: str) -> None:
        """Show a line that a program printed."""
        sys.stdout.write(f"  {text}\n")
        sys.stdout.flush()

    def fact(self, text: str) -> None:
        """Print what was checked and is true."""
        self._console.print(f"[green]✓[/] {escape(text)}")

    def text(self, text: str) -> None:
        """Print as it is."""
        self._console.print(text)


class Demo:
    """The steps, in order."""

    def __init__(self, story: Story, world: World, pulumi: Pulumi) -> None:
        """Take the world and the stack; run nothing yet."""
        self._story, self._world, self._pulumi = story, world, pulumi

    def run(self) -> None:
        """Run all steps."""
        before = self._world.snapshot()
        self._preview()
        self._up()
        with running(self._boot()) as vm:
            self._way_in()
            self._way_out(vm)
            self._drift()
            self._change()
        self._destroy()
        self._nothing_left(before)

    def _do(self, *args: str) -> str:
        """Show a `pulumi` command and run it."""
        self._story.command("", " ".join(["pulumi", *args]))
        return self._pulumi.run(*args)

    def _ask(self, url: str) -> None:
        """Have the client fetch from the microVM."""
        self._story.command("client", f"fetch {url}")
        answer = self._world.ask(url)
        self._story.line(answer)
        check(answer == "hello from web", f"{url} answered {answer!r}, not the microVM's greeting")

    def _preview(self) -> None:
        self._story.step(
            "pulumi preview: what would be created",
            "The program is program.py at the top of the checkout. Its setting `target` says on which host to build; "
            "for a real host, nothing else changes.",
        )
        self._do("stack", "init", "demo")
        self._do("config", "set", "target", f"netns:{self._world.host.name}")
        self._do("config", "set", "hostnet:stateDir", str(self._pulumi.record))
        preview = self._do("preview", "--diff")
        check("8 to create" in preview, "the preview does not show eight resources to create")
        self._story.fact("The preview has changed nothing on the host.")

    def _up(self) -> None:
        self._story.step(
            "pulumi up: create the network", "A bridge, a TAP for the microVM, NAT and four port forwards."
        )
        self._do("up", "--yes", "--skip-preview")
        self._show_host("ip -brief address show")
        self._show_forwards()

    def _show_host(self, command: str) -> str:
        """Run a shell command on the host and show it."""
        self._story.command("host", command)
        shown = self._world.host.run(["sh", "-c", command])
        for line in shown.splitlines():
            self._story.line(line.strip())
        return shown

    def _show_forwards(self) -> None:
        """Show the elements of nftables maps that are the uplink's port forwards.

        Not by their protocol: nft 1.0 prints its number where /etc/protocols is missing (a minimal Debian 12).
        """
        self._show_host("""nft list ruleset | grep '"eth0".*PortForward'""")

    def _boot(self) -> MicroVm:
        guest = self._pulumi.outputs()["guest"]
        address6 = guest["addresses"][1]
        append = f"{guest['kernelIpArg']} ip6={address6},{guest['gateway6']}"
        self._story.step(
            "A microVM boots on the TAP",
            "Its MAC address and its kernel's `ip=` argument are outputs of the stack. It serves HTTP, and it "
            f"fetches {' and '.join(OUTSIDE)}. It boots without KVM, in a few seconds.",
        )
        self._story.command(
            "host", f"qemu-system-x86_64 -M microvm -netdev tap,ifname={TAP},... mac={guest['macAddress']} {append}"
        )
        work = f"http=80,443,8080 fetch={','.join(OUTSIDE)}"
        vm = MicroVm(self._world.host, TAP, guest["macAddress"], f"{append} {work}")
        try:
            self._story.line(vm.wait_for(READY, BOOT_PATIENCE))
        except BaseException:
            vm.stop()
            raise
        return vm

    def _way_in(self) -> None:
        self._story.step(
            "In: ports of the host lead to the microVM",
            "The client knows only the host's addresses. The forwards lead to the microVM, over IPv4 and IPv6.",
        )
        for url in (f"http://{HOST4}/", f"http://{HOST4}:443/", f"http://[{HOST6}]/", f"http://[{HOST6}]:443/"):
            self._ask(url)
        self._story.fact("The microVM answers on ports 80 and 443 of the host, over IPv4 and IPv6.")

    def _way_out(self, vm: MicroVm) -> None:
        self._story.step(
            "Out: the microVM reaches the internet through NAT",
            "The router has no route to the microVM. Servers on the internet answer with the address that they see.",
        )
        for url, host in zip(OUTSIDE, (HOST4, HOST6), strict=True):
            self._story.command("microVM", f"wget -O - {url}")
            self._story.line(vm.wait_for(f"FETCHED: hello {host}", PATIENCE))
        check(set(self._world.seen) == {HOST4, HOST6}, f"the servers on the internet saw {self._world.seen}")
        self._story.fact(f"They saw the host's addresses, {HOST4} and {HOST6}: NAT for IPv4, NAT66 for IPv6.")

    def _drift(self) -> None:
        self._story.step(
            "Drift: the firewall's rules are flushed by hand",
            "`pulumi refresh` compares the stack with the kernel, and the next `pulumi up` repairs the difference.",
        )
        self._show_host("nft flush ruleset")
        check(is_refused(self._world, HOST4, 80), "port 80 still answers without the rules")
        self._story.fact("Port 80 of the host no longer answers.")
        refresh = self._do("refresh", "--yes", "--skip-preview", "--suppress-outputs")
        check("changes." in refresh, "the refresh did not see the difference")
        self._do("up", "--yes", "--skip-preview", "--suppress-outputs")
        self._ask(f"http://{HOST4}/")
        self._ask(f"http://[{HOST6}]/")
        self._do("up", "--yes", "--skip-preview", "--refresh", "--suppress-outputs", "--expect-no-changes")
        self._story.fact("It is repaired; one more `pulumi up --refresh` finds nothing to change.")

    def _change(self) -> None:
        self._story.step(
            "A change in place: port 80 leads to port 8080 of the microVM",
            "An update of two elements of nftables maps in one transaction: the port always has a destination.",
        )
        self._do("config", "set", "httpPort", "8080")
        preview = self._do("preview", "--diff")
        check("2 to update" in preview and "replace" not in preview, "the preview shows no update in place")
        self._do("up", "--yes", "--skip-preview", "--suppress-outputs")
        self._show_forwards()
        self._ask(f"http://{HOST4}/")
        connections = self._show_host("conntrack -L -p tcp --reply-port-src 8080 2>/dev/null")
        check(f"dst={HOST4}" in connections, "the connection was not answered from port 8080")
        self._story.fact("The answer came from port 8080 of the microVM.")

    def _destroy(self) -> None:
        self._story.step("pulumi destroy: remove the network", "The microVM is switched off.")
        self._do("destroy", "--yes", "--skip-preview")

    def _nothing_left(self, before: dict[str, str]) -> None:
        self._story.step(
            "Nothing is left",
            "Links, addresses, routes, rules, every sysctl and the processes of the host, compared with the start.",
        )
        after = self._world.snapshot()
        changed = sorted(name for name in before if before[name] != after.get(name))
        shown = "\n".join(f"{name}:\n  before: {before[name]}\n  after: {after.get(name)}" for name in changed)
        check(not changed, f"the host differs from the start:\n{shown}")
        record = sorted(path.name for path in self._pulumi.record.glob("*"))
        check(not record, f"hostnet's record still has {', '.join(record)}")
        self._story.fact(f"The host is as it was before ({len(before)} items compared), and hostnet's record is empty.")


def tell(console: Console) -> None:
    """Run the demonstration.

    Raises:
        DemoError: A step did not do what its heading says.
        PulumiError: A `pulumi` command failed.
    """
    story = Story(console)
    start = time.monotonic()
    story.text(INTRO)
    with Pulumi(story.line, colour=console.is_terminal) as pulumi, World() as world:
        Demo(story, world, pulumi).run()
    console.print(f"\n[bold green]All of it worked, in {time.monotonic() - start:.0f} s.[/]\n")
    lacks = system_program("pulumi") is None or missing_hosts()
    console.print(escape(REAL_HOST.format(path=SET_PATH if lacks else "")))


def find_system_programs() -> None:
    """Add the folders of nft and conntrack to PATH: on Debian, a user's PATH lacks them."""
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def become_root() -> None:
    """Start again through sudo if this process is not root: network namespaces need it.

    Raises:
        DemoError: There is no sudo.
    """
    if os.geteuid() == 0:
        return
    sudo = shutil.which("sudo")
    if sudo is None:
        raise DemoError("network namespaces need root, and there is no sudo: run `make demo` as root")
    kept = [f"{name}={os.environ[name]}" for name in ("PATH", "HOME", "HOSTNET_CACHE", "TERM") if name in os.environ]
    os.execv(sudo, [sudo, "env", *kept, str(VENV_PYTHON), "-m", "tools.demo"])  # noqa: S606 - no shell is wanted


def _turn_off(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(play: Callable[[Console], None] = tell) -> int:
    """Run it and report how it ended; return the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    # It cleans up, whichever signal ends it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _turn_off)
    try:
        find_system_programs()
        become_root()
        play(console)
    except KeyboardInterrupt:
        console.print(
            "\n[bold red]Interrupted.[/] The namespaces, processes and folders of the demonstration are deleted."
        )
        return TURNED
    except (DemoError, PulumiError, SetupError, AssertionError, OSError, subprocess.SubprocessError) as error:
        console.print(f"\n[bold red]The demonstration failed:[/] {escape(str(error))}")
        return 1
    return 0


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main())
