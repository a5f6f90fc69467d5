"""The agent on a host: how it gets there, what it needs, and what is said where that is missing."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hostnet.agent.bundle import bundle
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Glob
from hostnet.wire.requests import Change, Query

from tests.lab.waiting import until
from tests.ssh.world import World, bridge, forward, removal, urn, watch

SHELL_TOOLS = ("sh", "cat", "id")
PYENV = Path.home() / ".pyenv"  # of whoever runs the tests: a test's own home has none


def keep_something(world: World) -> None:
    """Make a bridge, so that the host has a record and keeps the agent's file."""

    async def making() -> None:
        session = world.session()
        await session.apply(bridge("br0"))
        await session.close()

    world.run(making)
    until(lambda: not world.server.agents())


def test_it_travels_once(up: World) -> None:
    """The file has its hash for a name, only root can touch it, and the next session finds it there."""
    keep_something(up)
    file = up.agent_file()
    assert file is not None
    assert file.name == f"{bundle().digest}.zip"
    assert file.read_bytes() == bundle().data
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700
    before = file.stat()
    keep_something(up)
    assert file.stat().st_ino == before.st_ino
    assert sorted(file.parent.iterdir()) == [file.with_suffix(".compiled"), file]


def test_a_file_that_was_changed_is_not_run(up: World) -> None:
    """Another content under its name is replaced."""
    keep_something(up)
    file = up.agent_file()
    assert file is not None
    file.write_bytes(b"raise SystemExit('not us')")
    keep_something(up)
    assert file.read_bytes() == bundle().data


def test_it_goes_with_the_last_resource(up: World) -> None:
    """Nothing of ours stays on a host that holds nothing of ours."""
    keep_something(up)

    async def removing() -> None:
        session = up.session()
        await session.apply(removal("br0"))
        await session.close()

    up.run(removing)
    until(lambda: not (up.directory / "state").exists())


def test_an_earlier_version_goes_with_it(up: World) -> None:
    """What an upgrade left is not left for good."""
    keep_something(up)
    file = up.agent_file()
    assert file is not None
    for ending in ("zip", "compiled"):
        (file.parent / f"{'0' * 64}.{ending}").write_bytes(b"")

    async def removing() -> None:
        session = up.session()
        await session.apply(removal("br0"))
        await session.close()

    up.run(removing)
    until(lambda: not (up.directory / "state").exists())


def test_it_stays_while_another_agent_uses_it(up: World) -> None:
    """One leaves a host that holds nothing yet; what the other starts there starts from the file."""

    async def working() -> None:
        one, other = up.session(), up.session()
        await one.connect()
        await other.connect()
        await one.close()
        await watch(lambda: len(up.server.agents()) == 1 and len(up.server.confirm_processes()) == 1)
        assert up.agent_file()
        await other.apply(bridge("br0"))
        glob = (Glob("br0", "vm-*"),)
        await other.apply(Change(urn("g"), "g", glob))
        await watch(lambda: up.server.processes(" watch --state-dir"))
        await other.apply(Change(urn("g"), "g", (), glob, known=True))
        await other.apply(removal("br0"))
        await other.close()

    up.run(working)
    until(lambda: not (up.directory / "state").exists())


def test_a_state_directory_that_others_can_write(up: World) -> None:
    """Is refused, and no agent runs from it: the agent's file is put where only root can write."""
    folder = up.directory / "state"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(HostnetError, match=f"users other than root can write to {folder}") as error:
        up.connect()
    assert error.value.code is Code.PERMISSION
    assert not list(folder.rglob("*.*"))


def test_a_state_directory_that_cannot_be_written(world: World) -> None:
    """Likewise on a read-only file system."""
    folder = world.directory / "state"
    folder.mkdir()
    world.server.mounts = f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"
    world.server.start()
    assert world.connect()
    assert list(folder.iterdir()) == []


def test_no_place_for_it(world: World) -> None:
    """Both places are named, with what is wrong with each."""
    folder = world.directory / "state"
    folder.mkdir()
    world.server.mounts = f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}; mount -o remount,ro /run"
    world.server.start()
    with pytest.raises(
        HostnetError, match=r"state/agent: Read-only file system; /run/hostnet-agent: Read-only"
    ) as error:
        world.connect()
    assert error.value.code is Code.PERMISSION


def variables(pid: int) -> set[str]:
    """The names of the variables in a process's environment."""
    text = Path(f"/proc/{pid}/environ").read_text()
    return {line.partition("=")[0] for line in text.split("\0") if line}


def test_the_environment_of_a_login_is_not_the_agents(up: World) -> None:
    """What a login sets may hold secrets. The agent has PATH, LANG, and how the provider logged in."""

    async def names() -> list[set[str]]:
        session = up.session()
        await session.connect()
        found = [variables(pid) for pid in (*up.server.agents(), *up.server.confirm_processes())]
        await session.close()
        return found

    assert up.run(names) == [{"PATH", "LANG", "SSH_CONNECTION"}] * 2


def test_sudo(up: World) -> None:
    """A user who is not root becomes root for the agent alone."""
    assert up.connect(up.connection(user="admin"))


def test_no_sudo_wanted(up: World) -> None:
    """`sudo: false` is honoured, and what it leads to is said."""
    with pytest.raises(HostnetError, match="runs as user 5001, not as root") as error:
        up.connect(up.connection(user="admin", sudo=False))
    assert error.value.code is Code.PERMISSION
    assert "NOPASSWD" in error.value.fix


@pytest.mark.parametrize("sudoers", ["admin ALL=(root) ALL", "", "admin ALL=(root) NOPASSWD: /bin/true"])
def test_sudo_that_refuses(world: World, sudoers: str) -> None:
    """A password is asked for, or the user may not: both are said with the line that allows it."""
    world.server.sudoers(sudoers)
    world.server.start()
    with pytest.raises(HostnetError, match="does not support sudo with a password") as error:
        world.connect(world.connection(user="admin"))
    assert error.value.code is Code.PERMISSION
    assert "admin ALL=(root) NOPASSWD: ALL" in error.value.fix


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ("ID=debian\n", "`apt-get install python3`"),
        ("ID=ubuntu\nID_LIKE=debian\n", "`apt-get install python3`"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "`apt-get install python3`"),
        ("ID=fedora\n", "`dnf install python3`"),
        ('ID="almalinux"\nID_LIKE="rhel centos fedora"\n', "`dnf install python3`"),
        ("ID=arch\n", "`pacman -S python`"),
        ("ID=alpine\nVERSION_ID=3.22.1\n", "`apk add python3`"),
        ("ID=nixos\n", "pkgs.python3"),
        ("ID=haiku\n", "`dnf install python3` (Fedora)"),
    ],
)
def test_no_python(world: World, os_release: str, command: str) -> None:
    """The command that installs it on that distribution."""
    world.server.os_release(os_release)
    world.server.path(*SHELL_TOOLS)
    world.server.start()
    with pytest.raises(HostnetError, match="python3 is not installed") as error:
        world.connect()
    assert error.value.code is Code.UNSUPPORTED
    assert command in error.value.fix


def test_no_python_behind_sudo(world: World) -> None:
    """It is Python that is missing, not sudo."""
    world.server.path(*SHELL_TOOLS, "sudo")
    world.server.sudoers("Defaults secure_path=/run/test/bin\nadmin ALL=(root) NOPASSWD: ALL")
    world.server.start()
    with pytest.raises(HostnetError, match="python3 is not installed"):
        world.connect(world.connection(user="admin"))


def test_no_sudo_there(world: World) -> None:
    """It is sudo that is missing, not Python."""
    world.server.path(*SHELL_TOOLS, "python3")
    world.server.start()
    with pytest.raises(HostnetError, match="sudo is not installed") as error:
        world.connect(world.connection(user="admin"))
    assert "or connect as root" in error.value.fix


def pyenv(version: str) -> str | None:
    """A Python of that version, as pyenv installs them."""
    found = sorted(PYENV.glob(f"versions/{version}.*/bin/python{version}"))
    return str(found[-1]) if found else None


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_an_old_python(world: World, version: str) -> None:
    """It is said that it is too old, and how new it must be."""
    python = pyenv(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    world.server.path(*SHELL_TOOLS, python3=python)
    world.server.start()
    with pytest.raises(HostnetError, match=rf"its python3 is {version}\.\d+, and hostnet needs 3.9 or later") as error:
        world.connect()
    assert error.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_every_python_from_the_oldest_on(world: World, version: str) -> None:
    """The agent starts, makes a bridge and a forward, reads them, and takes them away."""
    python = pyenv(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    world.server.path(*SHELL_TOOLS, python3=python)
    world.server.start()

    async def working() -> str:
        session = world.session()
        view = await session.apply(bridge("br0"))
        assert view.seen[0] is not None
        change = forward(8080)
        made = await session.apply(change)
        assert all(made.seen)
        read = await session.read(Query(change.urn, made.id, "PortForward", change.objects))
        assert read is not None
        assert all(read.seen)
        assert (await session.facts("host", {})).data
        assert (await session.facts("forwards", {})).data
        await session.apply(replace(change, id=made.id, objects=(), prior=change.objects, known=True))
        await session.apply(removal("br0"))
        await session.close()
        return str(session.greeting.python)

    assert world.run(working).startswith(version)


def test_a_shell_that_talks(world: World) -> None:
    """What login scripts print before the agent's first word is no answer of the agent's."""
    world.server.shell("/bin/bash")
    rc = world.server.directory / "home" / ".bashrc"
    rc.write_text('echo "Welcome to {the} machine"; echo; echo noise >&2\n')
    world.server.start()
    assert world.connect()


def test_a_shell_that_ends(world: World) -> None:
    """A user who may not run commands: what the shell said is passed on."""
    world.server.config += "ForceCommand echo This account is not available; exit 1\n"
    world.server.start()
    with pytest.raises(HostnetError, match=r"exit code 1; last output: This account is not available") as error:
        world.connect()
    assert error.value.code is Code.UNSUPPORTED
