"""The options of the command line are checked as the properties of a connection are."""

from __future__ import annotations

import pytest
from hostnet.cli.main import main, parser


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
    ],
)
def test_what_is_refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the words of a failed check, before a host is reached."""
    with pytest.raises(SystemExit) as ended:
        main(["status", *("=".join(arguments),)])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_what_is_taken() -> None:
    """The values of a connection."""
    options = parser().parse_args(["status", "--host", "admin@[fd12::1]:2222", "--netns", "demo", "--state-dir", "/x"])
    assert options.host == {"host": "fd12::1", "user": "admin", "port": 2222}
    assert (options.netns, options.state_dir) == ("demo", "/x")
