"""A Python language host for development: enough for `pulumi up` typed at a shell.

The official one is a Go program that comes only with the official CLI. Each program runs in a process of its own,
with the Python of its project's `runtime.options.virtualenv`, and inherits this host's output: the engine shows it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

RUNNER = Path(__file__).with_name("run_program.py")
# run_program.py ends with this status after it has shown the error itself.
SHOWN = 32
NO_GENERATOR = """\
# In Pulumi's own language: hostnet's development stand-in for the Python language host does not write Python.
# Property names become snake_case there, and a resource is a call: hostnet.Bridge("net", mtu=1400).
"""


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Answers what the engine asks of a language host, as far as running a program goes."""

    def __init__(self) -> None:
        """Start with no program under way."""
        self.stopped = threading.Event()
        self._program: subprocess.Popen[bytes] | None = None

    def Handshake(
        self, _request: language_pb2.LanguageHandshakeRequest, _context: grpc.ServicerContext
    ) -> language_pb2.LanguageHandshakeResponse:
        """Agree to the protocol."""
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, _request: Empty, _context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        """Say no version: this host belongs to whatever CLI runs it."""
        return plugin_pb2.PluginInfo()

    def GetRequiredPackages(
        self, _request: language_pb2.GetRequiredPackagesRequest, _context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPackagesResponse:
        """Ask for no plugins ahead of time; the engine finds each when the program registers a resource of it."""
        return language_pb2.GetRequiredPackagesResponse()

    def About(self, request: language_pb2.AboutRequest, _context: grpc.ServicerContext) -> language_pb2.AboutResponse:
        """Say which Python the program would run with."""
        return language_pb2.AboutResponse(executable=_interpreter(request.info), version=sys.version.split()[0])

    def Run(self, request: language_pb2.RunRequest, _context: grpc.ServicerContext) -> language_pb2.RunResponse:
        """Run the program to its end."""
        python = _interpreter(request.info)
        try:
            self._program = subprocess.Popen(
                [python, "-u", RUNNER],
                cwd=request.pwd,
                stdin=subprocess.PIPE,
                env={**os.environ, **_settings_env(request)},
            )
        except OSError as error:
            return language_pb2.RunResponse(error=f"could not run {python}: {error.strerror}")
        # The engine's address is the last word of this host's command line; programs of an inline server get it first.
        request.args.insert(0, sys.argv[-1])
        self._program.communicate(request.SerializeToString())
        status = self._program.returncode
        if status in (SHOWN, -signal.SIGINT):  # of a program that was cancelled, the engine says so itself
            return language_pb2.RunResponse(bail=True)
        if status != 0:
            return language_pb2.RunResponse(error=f"the Python program ended with exit status {status}")
        return language_pb2.RunResponse()

    def InstallDependencies(
        self, request: language_pb2.InstallDependenciesRequest, _context: grpc.ServicerContext
    ) -> Iterator[language_pb2.InstallDependenciesResponse]:
        """Make the virtual environment of a project or plugin, and install requirements.txt into it."""
        folder, python = request.info.root_directory, _interpreter(request.info)
        for argv in (
            [sys.executable, "-m", "venv", str(Path(python).parent.parent)],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"],
        ):
            ended = subprocess.run(argv, cwd=folder, capture_output=True, check=False)
            yield language_pb2.InstallDependenciesResponse(stdout=ended.stdout, stderr=ended.stderr)
            if ended.returncode != 0:
                raise RuntimeError(f"{' '.join(argv)} ended with exit status {ended.returncode}")

    def RunPlugin(
        self, request: language_pb2.RunPluginRequest, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.RunPluginResponse]:
        """Run a plugin that is written in Python, until the engine has no use for it any more."""
        argv = [_interpreter(request.info), "-u", request.info.program_directory, *request.args]
        plugin = subprocess.Popen(
            argv, cwd=request.pwd, env=dict(each.split("=", 1) for each in request.env), stdout=subprocess.PIPE
        )
        context.add_callback(plugin.terminate)
        with plugin:
            assert plugin.stdout is not None  # noqa: S101 - it was asked for
            for line in plugin.stdout:
                yield language_pb2.RunPluginResponse(stdout=line)
        yield language_pb2.RunPluginResponse(exitcode=plugin.returncode)

    def GenerateProgram(
        self, request: language_pb2.GenerateProgramRequest, _context: grpc.ServicerContext
    ) -> language_pb2.GenerateProgramResponse:
        """Hand out what `pulumi import` found as it came: the generator of Python programs is the official host's."""
        source = {path: (NO_GENERATOR + text).encode() for path, text in request.source.items()}
        return language_pb2.GenerateProgramResponse(source=source)

    def Cancel(self, _request: Empty, _context: grpc.ServicerContext) -> Empty:
        """Stop the program and then this host."""
        self.stop()
        return Empty()

    def stop(self) -> None:
        """Stop the program, if one runs, and let the host end."""
        if self._program is not None and self._program.poll() is None:
            self._program.send_signal(signal.SIGINT)
        self.stopped.set()


def _interpreter(info: language_pb2.ProgramInfo) -> str:
    """The Python of the project's virtual environment, which is named relative to the project's folder."""
    virtualenv = MessageToDict(info.options).get("virtualenv")
    if virtualenv:
        return str(Path(info.root_directory, virtualenv, "bin", "python"))
    return os.environ.get("PULUMI_PYTHON_CMD", "python3")


def _settings_env(request: language_pb2.RunRequest) -> dict[str, str]:
    """The variables that programs read their configuration from, as the official host sets them."""
    return {
        "PULUMI_CONFIG": json.dumps(dict(request.config)),
        "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
    }


def _stop_with(engine: int, host: LanguageHost) -> None:
    """Stop once the engine's process is gone, killed maybe: then it has not called Cancel."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(engine)], [], [])
    host.stop()


def main() -> None:
    """Serve until the engine cancels or goes away, having printed the port first."""
    host = LanguageHost()
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=unlimited)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: host.stop())
    threading.Thread(target=_stop_with, args=(os.getppid(), host), daemon=True).start()
    print(port, flush=True)
    host.stopped.wait()
    server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
