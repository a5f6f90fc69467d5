"""The first code on a host: it finds the agent's file there, or takes it from its input, and becomes the agent.

It travels on a command line and runs under whatever python3 the host has: it is old Python, so that it can report that
the host's is too old, and it imports little. It prints lines of JSON, `{"hostnet": …}`: what it waits for, what it
needs, or why it can't continue. Where the host has the file it prints nothing: the agent that it becomes sends its
greeting.

Its arguments are the file's SHA-256, its size, two directories where it may be, best first, and then the agent's own.
"""

# ruff: noqa: PTH103, PTH104, PTH108, PTH110, PTH116, PTH118, PTH120, PTH123, PTH208, UP031 (old Python, and no pathlib to wait for)

import hashlib
import json
import os
import sys
import time

_OLDEST = (3, 9)
_OTHERS = 0o022  # may write: group, others
_STICKY = 0o1000
_CLOUD_INIT = "/run/cloud-init"
_LOOK_SECONDS = 0.5
_LOOKS_A_LINE = 10  # a line that it waits every 5 s


def report(**what: object) -> None:
    """Send the provider a line."""
    os.write(1, json.dumps({"hostnet": what}).encode() + b"\n")


def await_cloud_init() -> None:
    """Wait until the first boot is over: it may be about to install what the agent needs.

    cloud-init itself tests for the same files: `status.json` exists from the first stage on, `result.json` after the
    last.
    """
    looks = 0
    while os.path.exists(_CLOUD_INIT + "/status.json") and not os.path.exists(_CLOUD_INIT + "/result.json"):
        if looks % _LOOKS_A_LINE == 0:
            report(wait="cloud-init")  # fails, and so ends this, when the provider has hung up
        looks += 1
        time.sleep(_LOOK_SECONDS)


def only_root_writes(directory: str) -> bool:
    """Whether only root can put a file into a directory, or another directory in its place."""
    path = os.path.realpath(directory)
    status = os.stat(path)
    if status.st_uid != 0 or status.st_mode & _OTHERS:
        return False
    while path != "/":
        path = os.path.dirname(path)
        status = os.stat(path)
        if status.st_uid != 0 or (status.st_mode & _OTHERS and not status.st_mode & _STICKY):
            return False
    return True


def find(digest: str, directories: "list[str]") -> "str | None":
    """The path of the agent's file, where it is complete and only root can replace it."""
    for directory in map(os.path.realpath, directories):  # a link on the way may lead elsewhere later
        path = os.path.join(directory, digest + ".zip")
        try:
            with open(path, "rb") as file:
                same = hashlib.sha256(file.read()).hexdigest() == digest
            if same and only_root_writes(directory):
                return path
        except OSError:
            continue
    return None


def receive(digest: str, size: int) -> bytes:
    """The agent's file from standard input, where the agent's requests follow."""
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 16))
        if not part:
            sys.exit(1)  # the provider has hung up
        parts.append(part)
        size -= len(part)
    data = b"".join(parts)
    if hashlib.sha256(data).hexdigest() != digest:
        report(fail="bytes")
        sys.exit(1)
    return data


def place(data: bytes, digest: str, directories: "list[str]") -> str:
    """Store the agent's file in the first directory that serves; gives its path."""
    why = []
    before = os.umask(0o077)
    for directory in map(os.path.realpath, directories):
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            if only_root_writes(directory):
                sweep(directory)
                return write(data, directory, digest)
            why.append("%s: users other than root can write there" % directory)
        except OSError as error:
            why.append("%s: %s" % (directory, error.strerror))
        finally:
            os.umask(before)
    report(fail="place", why="; ".join(why))
    sys.exit(1)


def sweep(directory: str) -> None:
    """Delete the parts of files whose writer was killed: one with its number runs no more, or is this process."""
    for name in os.listdir(directory):
        stem, _, number = name.rpartition(".")
        if not stem.endswith(".zip") or not number.isdigit():
            continue
        if int(number) == os.getpid() or not os.path.exists("/proc/" + number):
            try:
                os.unlink(os.path.join(directory, name))
            except FileNotFoundError:
                continue  # another of these was faster


def write(data: bytes, directory: str, digest: str) -> str:
    """Write, sync, rename: a file of that name is complete.

    Like agent/linux/files.py, which is in the file that is only now written. With a name of this process's own: nothing
    keeps two of these from running at the same time.
    """
    path = os.path.join(directory, digest + ".zip")
    part = "%s.%d" % (path, os.getpid())
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(part, path)
    except OSError:
        os.unlink(part)
        raise
    return path


def environment() -> "dict[str, str]":
    """The agent's whole environment, as in agent/linux/process.py: what a login sets may hold secrets.

    SSH_CONNECTION says how the provider logged in (agent/transaction/lockout.py).
    """
    path = [entry for entry in os.environ.get("PATH", "").split(":") if entry.startswith("/")]
    kept = {"PATH": ":".join(path) or os.defpath, "LANG": "C.UTF-8"}
    if "SSH_CONNECTION" in os.environ:
        kept["SSH_CONNECTION"] = os.environ["SSH_CONNECTION"]
    return kept


def main(arguments: "list[str]") -> None:
    """Become the agent."""
    digest, size, directories = arguments[0], int(arguments[1]), arguments[2:4]
    if sys.version_info < _OLDEST:
        report(fail="python", version="%d.%d.%d" % sys.version_info[:3])
        sys.exit(1)
    if os.geteuid() != 0:
        report(fail="user", uid=os.geteuid())
        sys.exit(1)
    path = find(digest, directories)
    if path is None:
        await_cloud_init()
        report(need=digest)
        path = place(receive(digest, size), digest, directories)
    # -I -S: nothing of the user's environment or site-packages gets into a process that runs as root.
    start = [sys.executable, "-I", "-S", path, *arguments[4:]]
    os.execve(sys.executable, start, environment())  # noqa: S606 - no shell is wanted


main(sys.argv[1:])
