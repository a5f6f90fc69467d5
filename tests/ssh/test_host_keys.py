"""A host must present a trusted key; an error says how to trust another one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hostnet.wire.errors import Code, HostnetError

from tests.lab.waiting import until
from tests.ssh.world import FAR_SERVER, JUMP, SERVER, Server, World, keygen

OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIKJ8Vqvz8Q0tKBd8S8rrfFEMT8D6YbnOWq0rWmA8sQp"


def refuse(world: World, **values: object) -> HostnetError:
    """The error for a host whose key is not accepted."""
    with pytest.raises(HostnetError) as error:
        world.connect(world.connection(**values))
    assert error.value.code is Code.PERMISSION
    assert world.said == [], "such an error does not get better by another try"
    assert world.server.log_ins() == 0
    return error.value


def line_of(error: HostnetError) -> str:
    """The line that an error says to add to known_hosts."""
    return str(error).rsplit("`", 2)[1]


def test_several_lines_of_host_key(up: World) -> None:
    """The host's key may be any of those that are given."""
    assert up.connect(up.connection(host_key=f"# old\n{OTHER} old\n\n{up.server.host_key}\n"))


def test_an_unknown_key(up: World, home: Path) -> None:
    """The error has the fingerprint that ssh-keygen says, and a line that, once added, lets the provider in."""
    error = refuse(up, host_key=None)
    assert "unknown host key" in str(error)
    assert up.server.fingerprint in str(error)
    public = " ".join(up.server.host_key.split()[:2])
    assert f"connection.hostKey to `{public}`" in str(error)
    assert line_of(error) == f"{SERVER} {public}"
    (home / ".ssh" / "known_hosts").write_text(line_of(error) + "\n")
    assert up.connect(up.connection(host_key=None))


def test_another_port(world: World, home: Path) -> None:
    """`[host]:port` in known_hosts."""
    world.server.config = world.server.config.replace("Port 22", "Port 2200")
    world.server.start()
    error = refuse(world, host_key=None, port=2200)
    assert line_of(error).startswith(f"[{SERVER}]:2200 ssh-ed25519 ")
    (home / ".ssh" / "known_hosts").write_text(line_of(error) + "\n")
    assert world.connect(world.connection(host_key=None, port=2200))


def test_hashed_known_hosts(up: World, home: Path) -> None:
    """As `HashKnownHosts yes` writes it."""
    path = home / ".ssh" / "known_hosts"
    path.write_text(f"{SERVER} {up.server.host_key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert SERVER not in path.read_text()
    assert up.connect(up.connection(host_key=None))


@pytest.mark.parametrize("source", ["connection.hostKey", "known_hosts"])
def test_a_changed_key(up: World, home: Path, source: str) -> None:
    """Both fingerprints, and what to do if the host was reinstalled; nothing is sent to it."""
    values: dict[str, str | None] = {"host_key": OTHER}
    if source == "known_hosts":
        values["host_key"] = None
        (home / ".ssh" / "known_hosts").write_text(f"{SERVER} {OTHER}\n")
    error = refuse(up, **values)
    assert f"root@{SERVER}: host key mismatch: the server presented SHA256:" in str(error)
    assert "The key was changed, or the connection is being intercepted" in str(error)
    assert up.server.fingerprint in str(error)
    assert f"{source} expects SHA256:" in str(error)
    assert " ".join(up.server.host_key.split()[:2]) in str(error)


def test_a_key_of_another_kind_than_the_known(world: World) -> None:
    """A host that has no key of the known kind shows what it has: the error can say which."""
    world.server.new_host_key("ecdsa")
    world.server.start()
    error = refuse(world, host_key=OTHER)
    assert "(ecdsa-sha2-nistp256)" in str(error)
    assert "ssh_host_ecdsa_key.pub" in str(error)


def test_the_known_kind_is_asked_for(world: World) -> None:
    """A host with several keys shows the one that is known."""
    rsa = keygen(world.directory / "host_rsa", "rsa")
    world.server.config += f"HostKey {rsa}\n"
    world.server.start()
    assert world.connect(world.connection(host_key=rsa.with_suffix(".pub").read_text()))


def test_a_revoked_key(up: World, home: Path) -> None:
    """Whatever else known_hosts says."""
    lines = [f"{SERVER} {up.server.host_key}", f"@revoked * {up.server.host_key}"]
    (home / ".ssh" / "known_hosts").write_text("\n".join(lines) + "\n")
    assert "revoked" in str(refuse(up, host_key=None))


def test_a_certificate_authority(world: World, home: Path) -> None:
    """A host whose key an authority of known_hosts has signed, for this name."""
    authority = keygen(world.directory / "authority")
    public = world.server.directory / "host_ed25519.pub"
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "host", "-h", "-n", SERVER, str(public)]
    subprocess.run(sign, check=True)
    world.server.config += f"HostCertificate {world.server.directory / 'host_ed25519-cert.pub'}\n"
    world.server.start()
    known = f"@cert-authority 192.0.2.* {authority.with_suffix('.pub').read_text()}"
    (home / ".ssh" / "known_hosts").write_text(known)
    assert world.connect(world.connection(host_key=None))


def test_insecure_ignore_host_key(up: World) -> None:
    """Whatever it shows; nothing is written to known_hosts."""
    assert up.connect(up.connection(host_key=None, insecure_ignore_host_key=True))
    assert not Path("~/.ssh/known_hosts").expanduser().exists()


@pytest.mark.parametrize("text", ["nonsense", f"{SERVER} {OTHER}", "ssh-ed25519 AAAA"])
def test_a_host_key_that_is_none(world: World, text: str) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(HostnetError, match=r"cannot use connection\.hostKey") as error:
        world.connect(world.connection(host_key=text))
    assert error.value.code is Code.INVALID


@pytest.fixture
def jump(world: World) -> Server:
    """The server is behind a jump host; both are up."""
    made = world.put_jump_between()
    made.start()
    world.server.start()
    return made


def test_through_a_jump_host(world: World, jump: Server) -> None:
    """The server is reached, and is asked for its own key; nothing of ours runs on the jump host."""
    proxy = world.connection(host=JUMP, host_key=jump.host_key)
    assert world.connect(world.connection(host=FAR_SERVER, proxy=proxy))
    assert jump.log_ins() == world.server.log_ins() == 1
    assert jump.agents() == []


def test_the_jump_hosts_key_is_checked(world: World, jump: Server) -> None:
    """On its own: the server's does not count, and the error names the jump host."""
    with pytest.raises(HostnetError, match="host key mismatch") as error:
        world.connect(world.connection(host=FAR_SERVER, proxy=world.connection(host=JUMP)))
    assert error.value.host == f"root@{JUMP}"
    assert jump.log_ins() == 0


def test_the_key_behind_the_jump_host_is_checked(world: World, jump: Server) -> None:
    """The connection to the jump host may be intercepted, too."""
    proxy = world.connection(host=JUMP, host_key=jump.host_key)
    with pytest.raises(HostnetError, match="host key mismatch") as error:
        world.connect(world.connection(host=FAR_SERVER, host_key=jump.host_key, proxy=proxy))
    assert error.value.host == f"root@{FAR_SERVER}"
    assert world.server.log_ins() == 0


def test_a_jump_host_that_forwards_nothing(world: World) -> None:
    """It is said what to change where, at once."""
    jump = world.put_jump_between()
    jump.config += "AllowTcpForwarding no\n"
    jump.start()
    proxy = world.connection(host=JUMP, host_key=jump.host_key)
    with pytest.raises(HostnetError, match="AllowTcpForwarding") as error:
        world.connect(world.connection(host=FAR_SERVER, proxy=proxy))
    assert error.value.code is Code.PERMISSION
    assert world.said == []


def test_a_server_that_boots_behind_a_jump_host(world: World) -> None:
    """One login on the jump host serves all attempts."""
    jump = world.put_jump_between()
    jump.start()
    proxy = world.connection(host=JUMP, host_key=jump.host_key)
    connection = world.connection(host=FAR_SERVER, proxy=proxy, dial_error_limit=-1)

    async def connecting() -> None:
        session = world.session(connection)
        try:
            await session.connect()
        finally:
            await session.close()

    waiting = world.client.submit(lambda: world.run(connecting))
    until(lambda: len(world.said) >= 2)
    world.server.start()
    waiting.result()
    assert "attempt 2" in world.said[1]
    assert "Connection refused" in world.said[1]
    assert jump.log_ins() == 1
