"""Set-up for tests, run in a minimal system by its own Python: `python3 -m tests.systems.set_up`.

All that `make setup` does but `pulumi`, what its tests alone need, and the test server: they take minutes, and these
tests don't need them.
"""

from __future__ import annotations

from tools import debian, firewalls, golang, guest, venv


def main() -> None:
    """Do the steps, in the order of `make setup`."""
    debian.install([group for group in debian.GROUPS if group != "fleet"])
    venv.build()
    venv.add("dev")
    golang.gensdk()
    guest.prepare()
    firewalls.prepare()


if __name__ == "__main__":
    main()
