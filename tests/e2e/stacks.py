"""The real `pulumi` CLI on stacks of its own: a file backend, a PULUMI_HOME and a `stateDir` in a temporary folder.

A program is a Python function, which this process serves to the engine as the Automation API does (`--client`); or,
without one, what stands in the stack's folder as a user typed it. Every run gives the engine's own events.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from hostnet.wire.urn import Urn
from pulumi.automation._server import LanguageServer
from pulumi.runtime.proto import language_pb2_grpc

from tests.lab.kernel import Link
from tests.lab.namespaces import Namespace
from tools.paths import CHECKOUT, VENV, tool_env

Program = Callable[[], None]

PASSPHRASE = "e2e"  # noqa: S105 - of backends that live as long as a test
PATIENCE = 300.0  # seconds after which a hanging pulumi is killed: only a failure costs this
_PLUGIN = CHECKOUT / "provider" / "bin"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# Of a replacement the engine tells the two halves and the whole; `replace` is the whole.
_HALVES = frozenset({"create-replacement", "delete-replaced"})


@dataclass(frozen=True)
class Step:
    """What the engine did, or would do, with one resource.

    Attributes:
        op: The engine's word: `create`, `update`, `replace`, …
        urn: The resource.
        diff: By property path, `add`, `update`, `delete`, and the same with `-replace`.
    """

    op: str
    urn: str
    diff: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The resource's name in the program."""
        return Urn.parse(self.urn).name

    @property
    def ours(self) -> bool:
        """Whether it is one of hostnet's resources, not the stack or a provider."""
        return Urn.parse(self.urn).type.startswith("hostnet:")


@dataclass
class Run:
    """One run of `pulumi`."""

    command: str
    code: int
    text: str
    events: list[dict[str, Any]]

    @property
    def steps(self) -> list[Step]:
        """What was done, in the order in which it ended (a preview: was planned), hostnet's resources alone."""
        found = []
        for event in self.events:
            told = event.get("resOutputsEvent") or event.get("resOpFailedEvent")
            if told:
                step = _step(told["metadata"])
                if step.ours:
                    found.append(step)
        return found

    def done(self, op: str) -> int:
        """How many of hostnet's resources have been through an operation."""
        return sum(step.op == op for step in self.steps)

    @property
    def begun(self) -> list[Step]:
        """What was begun, in order."""
        told = [event["resourcePreEvent"]["metadata"] for event in self.events if "resourcePreEvent" in event]
        return [step for step in map(_step, told) if step.ours]

    @property
    def changes(self) -> dict[str, str]:
        """Resource -> what was done, without those that stay the same; of a replacement just `replace`."""
        quiet = _HALVES | {"same", "refresh", "read", "discard"}
        return {step.name: step.op for step in self.steps if step.op not in quiet}

    def diff(self, name: str) -> dict[str, str]:
        """The paths that changed in one resource, and how."""
        found: dict[str, str] = {}
        for step in self.steps:
            if step.name == name:
                found.update(step.diff)
        return found

    @property
    def diffs(self) -> dict[str, dict[str, str]]:
        """The same for every resource in which something changed."""
        names = dict.fromkeys(step.name for step in self.steps if step.diff)
        return {name: self.diff(name) for name in names}

    def said(self, severity: str) -> list[str]:
        """The diagnostics of a severity: `warning`, `error`, `info`."""
        told = [event["diagnosticEvent"] for event in self.events if "diagnosticEvent" in event]
        return [one["message"] for one in told if one["severity"] == severity]

    @property
    def warnings(self) -> list[str]:
        """What it warned of."""
        return self.said("warning")

    def said_by_name(self, severity: str) -> dict[str, str]:
        """The same at each resource."""
        told = [event["diagnosticEvent"] for event in self.events if "diagnosticEvent" in event]
        named = [one for one in told if one["severity"] == severity and "urn" in one]
        return {Urn.parse(one["urn"]).name: one["message"] for one in named}

    @property
    def errors(self) -> str:
        """What went wrong, as one text."""
        return "\n".join(self.said("error"))


def _step(metadata: dict[str, Any]) -> Step:
    detailed = metadata.get("detailedDiff") or {}
    return Step(metadata["op"], metadata["urn"], {path: how["diffKind"] for path, how in detailed.items()})


@dataclass
class Running:
    """A `pulumi` under way."""

    process: subprocess.Popen[str]
    log: Path
    _told: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0  # bytes of the log

    def events(self) -> list[dict[str, Any]]:
        """What it has printed so far."""
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(self._read)
                whole = log.read().rpartition(b"\n")
            self._read += len(whole[0] + whole[1])
            self._told += map(json.loads, whole[0].splitlines())
        return list(self._told)

    def until(self, holds: Callable[[Run], object]) -> None:
        """Wait until something holds of its events so far.

        Raises:
            AssertionError: It ends before, or takes too long.
        """
        end = time.monotonic() + PATIENCE
        while not holds(Run("", 0, "", self.events())):
            assert time.monotonic() < end, f"still not so after {PATIENCE:.0f} seconds: {self.events()[-5:]}"
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.01)
                raise AssertionError(self.process.communicate()[0])

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


def _set_by_user(name: str) -> bool:
    """Whether it is a setting of Pulumi's or ours. tests/conftest.py sets one, and says why; benchmarks do not."""
    return name.startswith(("PULUMI_", "HOSTNET_")) and name != "HOSTNET_PREVIEW_SECONDS"


class Cli:
    """A `pulumi` with a home and a backend of its own."""

    def __init__(self, folder: Path) -> None:
        """Everything it writes goes below `folder`."""
        self.folder = folder
        (folder / "backend").mkdir(parents=True)
        self.env = {name: value for name, value in tool_env().items() if not _set_by_user(name)}
        self.env |= {
            "PULUMI_HOME": str(folder / "home"),
            # Without a `.attrs` beside each file: a `pulumi` that is killed while it writes one leaves it empty, and
            # the next one says "failed to load checkpoint: EOF".
            "PULUMI_BACKEND_URL": f"file://{folder / 'backend'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DEBUG_COMMANDS": "true",  # --event-log
            "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
            "NO_COLOR": "1",
        }
        self._runs = 0

    def __call__(self, *args: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end as typed at a shell.

        Raises:
            AssertionError: It fails, and `check` is set.
        """
        argv = ["pulumi", "--non-interactive", *args]
        ended = subprocess.run(
            argv, cwd=cwd, env=self.env | env, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert not check or ended.returncode == 0, f"{' '.join(argv)}\n{ended.stdout}{ended.stderr}"
        return ended

    def event_log(self) -> Path:
        """A new file for events."""
        self._runs += 1
        return self.folder / f"events-{self._runs}.json"


class Stack:
    """A project in a folder with one stack."""

    def __init__(self, cli: Cli, name: str, *, project: str = "shop", **config: str) -> None:
        """Make the project and the stack.

        Args:
            cli: The `pulumi` that runs it.
            name: The stack's name, also that of its folder.
            project: The project's name.
            config: hostnet's configuration (`stateDir`, …).
        """
        self.cli, self.name, self.project = cli, name, project
        self.inside: Namespace | None = None  # where `pulumi` runs: its network is the provider's
        self.folder = cli.folder / project / name
        self.folder.mkdir(parents=True)
        plugins = {"providers": [{"name": "hostnet", "path": str(_PLUGIN)}]}
        runtime = {"name": "python", "options": {"virtualenv": str(VENV)}}
        self._write("Pulumi.yaml", {"name": project, "runtime": runtime, "plugins": plugins})
        self._write(f"Pulumi.{name}.yaml", {"config": {f"hostnet:{key}": value for key, value in config.items()}})
        cli("stack", "init", name, cwd=self.folder)

    def _write(self, name: str, content: object) -> None:
        (self.folder / name).write_text(json.dumps(content))  # JSON is YAML

    def write(self, program: str) -> None:
        """Put a program into the folder, as a user would."""
        (self.folder / "__main__.py").write_text(program)

    # --- runs ------------------------------------------------------------------------------------------------------

    def up(self, program: Program | None, *flags: str, fails: bool = False, **env: str) -> Run:
        """`pulumi up`."""
        return self.run("up", program, "--yes", "--skip-preview", *flags, fails=fails, **env)

    def preview(self, program: Program | None, *flags: str, fails: bool = False, **env: str) -> Run:
        """`pulumi preview`."""
        return self.run("preview", program, *flags, fails=fails, **env)

    def refresh(self, *flags: str, fails: bool = False, **env: str) -> Run:
        """`pulumi refresh`."""
        return self.run("refresh", None, "--yes", "--skip-preview", *flags, fails=fails, **env)

    def destroy(self, *flags: str, fails: bool = False, **env: str) -> Run:
        """`pulumi destroy`."""
        return self.run("destroy", None, "--yes", "--skip-preview", *flags, fails=fails, **env)

    def run(self, command: str, program: Program | None, *flags: str, fails: bool = False, **env: str) -> Run:
        """Run to the end.

        Args:
            command: Of `pulumi`.
            program: What to serve to the engine; None: what is in the folder, if the command needs it.
            flags: Further arguments.
            fails: Whether it must fail.
            env: Further variables of its environment.

        Raises:
            AssertionError: It fails and should not, or the other way round.
        """
        with self.running(command, program, *flags, **env) as running:
            run = self.ended(running)
        assert (run.code != 0) == fails, f"pulumi {command}: exit status {run.code}\n{run.text}"
        return run

    @contextmanager
    def running(self, command: str, program: Program | None, *flags: str, **env: str) -> Iterator[Running]:
        """`pulumi` under way; what is left of it at the end of the block is killed."""
        log = self.cli.event_log()
        argv = ["pulumi", command, "--non-interactive", "--stack", self.name, "--event-log", str(log), *flags]
        with _served(program) as client:
            process = self._start(
                [*argv, *client],
                cwd=self.folder,
                env=self.cli.env | env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # the tests' own Ctrl-C is not for it
            )
            try:
                yield Running(process, log)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, argv: list[str], **how: Any) -> subprocess.Popen[str]:
        """Start a program where `pulumi` runs."""

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(argv, **how)

        return self.inside.call(start) if self.inside else start()

    @staticmethod
    def ended(running: Running) -> Run:
        """Wait for the end of it."""
        text, _ = running.process.communicate(timeout=PATIENCE)
        return Run(str(running.process.args), running.process.returncode, text, running.events())

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def state_text(self) -> str:
        """The state, as it lies on the disk."""
        path = self.cli.folder / "backend" / ".pulumi" / "stacks" / self.project / f"{self.name}.json"
        return path.read_text()

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Hostnet's resources in the state, by name."""
        latest = json.loads(self.state_text)["checkpoint"].get("latest") or {}
        found = [one for one in latest.get("resources") or () if Step("", one["urn"]).ours]
        return {Urn.parse(one["urn"]).name: one for one in found}

    @property
    def outputs(self) -> dict[str, Any]:
        """The program's exports."""
        latest = json.loads(self.state_text)["checkpoint"].get("latest") or {}
        stacks = [one for one in latest.get("resources") or () if one["type"] == "pulumi:pulumi:Stack"]
        return dict(stacks[0].get("outputs") or {}) if stacks else {}

    def urn(self, name: str) -> str:
        """A resource's URN."""
        return str(self.resources[name]["urn"])


@contextmanager
def _served(program: Program | None) -> Iterator[list[str]]:
    """Serve a program to the engine; gives the flags that lead the engine here."""
    if program is None:
        yield []
        return
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=_UNLIMITED)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(LanguageServer(program), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield [f"--client=127.0.0.1:{port}", "--exec-kind", "auto.inline"]
    finally:
        server.stop(grace=0).wait(PATIENCE)
        _collect()


def _collect() -> None:
    """Finish what a failed program left in the middle of an `await`.

    Such coroutines complain when the collector ends them, and where it does that inside of `ast.parse`, CPython 3.11
    raises "AST constructor recursion depth mismatch": so here, and quietly.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "coroutine '_urn' was never awaited"
            gc.collect()
    finally:
        sys.unraisablehook = hook


class Gate:
    """Holds up a program, and so a run, at a place that the test chooses."""

    def __init__(self) -> None:
        """Closed."""
        self._open = threading.Event()
        self._reached = threading.Event()

    def wait(self) -> None:
        """In the program: stop here till the test opens it."""
        self._reached.set()
        assert self._open.wait(PATIENCE)

    def reached(self) -> None:
        """In the test: wait till the program stands at the gate."""
        assert self._reached.wait(PATIENCE)

    def open(self) -> None:
        """Let the program go on."""
        self._open.set()


# --- what the kernel has -------------------------------------------------------------------------------------------

SYSCTLS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra")
# A comment names one owner of those that share an element, whichever came first.
_PASSING = frozenset({"handle", "packets", "bytes", "comment"})


class Host:
    """A namespace as a host that a stack works on."""

    def __init__(self, namespace: Namespace, state_dir: Path) -> None:
        """The namespace `namespace`, with hostnet's record in `state_dir`."""
        self.namespace, self.state_dir = namespace, state_dir

    @property
    def name(self) -> str:
        """For `connection.netns`."""
        return self.namespace.name

    def run(self, command: str) -> str:
        """Run a program there."""
        return self.namespace.run(command)

    def ip(self, *lines: str) -> None:
        """Run `ip` commands there, as one process."""
        self.namespace.ip(*lines)

    def nft(self, rules: str) -> None:
        """Load nftables text there."""
        self.namespace.nft(rules)

    @property
    def links(self) -> dict[str, Link]:
        """All links by name."""
        return self.namespace.kernel.links()

    def addresses(self, name: str) -> list[str]:
        """A link's addresses without link-local ones; none where it is not there."""
        link = self.links.get(name)
        return list(link.addresses) if link else []

    @property
    def routes(self) -> set[str]:
        """The routes to networks and hosts, `10.0.0.5 dev t0`."""
        # The kernel makes the link-local ones when a link first has a carrier.
        routes = [one for one in self.namespace.kernel.routes() if one.device and one.destination != "fe80::/64"]
        return {f"{one.destination.removesuffix('/32').removesuffix('/128')} dev {one.device}" for one in routes}

    @property
    def ruleset(self) -> list[dict[str, Any]]:
        """Everything in nftables without counts, handles and comments; rules in their order, elements sorted."""
        return sorted((_without_counts(one) for one in self.namespace.kernel.ruleset()), key=_place)

    @property
    def table(self) -> bool:
        """Whether hostnet's table is there."""
        return any(one.get("table", {}).get("name") == "hostnet" for one in self.ruleset)

    def elements(self, name: str) -> list[Any]:
        """The elements of a set or map of hostnet's."""
        for one in self.ruleset:
            found = one.get("map") or one.get("set") or {}
            if found.get("name") == name:
                return list(found.get("elem", []))
        return []

    def forwards(self, name: str = "dnat_port4", interface: str = "eth0") -> dict[int | str, str]:
        """The forwards in a map on one interface: source port -> `10.0.0.2:80`."""
        found: dict[int | str, str] = {}
        for key, value in self.elements(name):
            words = key["elem"]["val"]["concat"] if "elem" in key else key["concat"]
            if words[0] == interface:
                found[words[-1]] = ":".join(map(str, value["concat"]))
        return found

    def sysctl(self, name: str, value: int | None = None) -> str:
        """Set or read a sysctl there."""
        return self.namespace.sysctl(name, value)

    def snapshot(self) -> dict[str, Any]:
        """All that hostnet may change there, to compare a moment with another."""
        links = {name: link.lasting for name, link in self.links.items()}
        sysctls = {name: self.sysctl(name) for name in SYSCTLS}
        return {"links": links, "routes": sorted(self.routes), "nft": self.ruleset, "sysctls": sysctls}

    @property
    def left(self) -> list[str]:
        """What is left of hostnet: its table, and what its `stateDir` holds of owners."""
        return ["table inet hostnet"] * self.table + [line for line in self.record.splitlines() if '"urn"' in line]

    @property
    def record(self) -> str:
        """What hostnet wrote down."""
        return "\n".join(path.read_text() for path in self.state_dir.rglob("*.json"))


def _without_counts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_counts(item) for key, item in value.items() if key not in _PASSING}
    if isinstance(value, list):
        return [_without_counts(item) for item in value]
    return value


def _place(one: dict[str, Any]) -> tuple[str, ...]:
    """Where a piece of a ruleset belongs; rules of a chain belong to one place, and keep their order."""
    ((kind, content),) = one.items()
    if "elem" in content:
        content["elem"].sort(key=lambda element: json.dumps(element, sort_keys=True))
    return kind, content["family"], str(content.get("table", "")), str(content.get("chain", content.get("name", "")))
