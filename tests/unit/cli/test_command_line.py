"""The options of the command line are checked as the properties of a connection are."""

from __future__ import annotations

import pytest
from hostnet.cli.arguments import connection, parsed, parser
from hostnet.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--netns", ""], "must be a network namespace's name"),
        (["--netns", "../x"], "must be a network namespace's name"),
        (["--netns", "/run/netns/x"], "must be a network namespace's name"),
        (["--host", "root;id@server"], "must be a user's name"),
        (["--host", "-oProxyCommand=id@server"], "must be a user's name"),
        (["--jump", "a b@server"], "must be a user's name"),
        (["--host", "server:0"], "must be a port"),
        (["--host", "server:70000"], "must be a port"),
        (["--state-dir", "state"], "must be an absolute path"),
        (["--host-key", "server ssh-ed25519 AAAA"], "must be a public key in authorized_keys format"),
    ],
)
def test_what_is_refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the words of a failed check, before a host is reached."""
    with pytest.raises(SystemExit) as ended:
        main(["status", *("=".join(arguments),)])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--interval=0", "--interval=nan", "--interval=x", "--count=0", "--count=-1"])
def test_how_often_top_looks(wrong: str) -> None:
    """Neither never nor without a pause."""
    with pytest.raises(SystemExit) as ended:
        main(["top", wrong])
    assert ended.value.code == 2


def test_what_is_taken() -> None:
    """The values of a connection."""
    options = parser().parse_args(["status", "--host", "admin@[fd12::1]:2222", "--netns", "demo", "--state-dir", "/x"])
    assert options.host == {"host": "fd12::1", "user": "admin", "port": 2222}
    assert (options.netns, options.state_dir) == ("demo", "/x")


def test_a_host_key_is_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    """It is the connection's `hostKey`, not the jump host's; this machine has none."""
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGM1"
    to = connection(parsed(["status", "--host", "server", "--jump", "bastion", f"--host-key={key} root@server"]))
    assert (to.host_key, to.proxy and to.proxy.host_key) == (key, None)
    with pytest.raises(SystemExit) as ended:
        main(["status", f"--host-key={key}"])
    assert ended.value.code == 2
    assert "--host-key needs --host" in capsys.readouterr().err
