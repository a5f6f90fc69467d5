"""The checkout's files as git knows them, and the documents as they have to be outside of the checkout."""

import re
import subprocess
from pathlib import Path

from hostnet import __version__
from hostnet.resources.package_schema import REPOSITORY

from tools.dist.archives import File
from tools.paths import CHECKOUT

_LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(?!https?:|#)([^)\s]+)", re.MULTILINE)


def tracked(*folders: str) -> dict[str, File]:
    """The files in these folders, or these files, that git tracks; names are relative to the checkout."""
    argv = ["git", "ls-files", "-z", "--", *folders]
    listed = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, check=True, text=True).stdout
    return {name: File.read(CHECKOUT / name) for name in sorted(filter(None, listed.split("\0")))}


def place(folder: Path, files: dict[str, File]) -> None:
    """Write files into a folder."""
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        path.chmod(0o755 if file.executable else 0o644)


def web_address(path: str) -> str:
    """Where the web has a file or a folder of this version."""
    kind = "tree" if (CHECKOUT / path.partition("#")[0]).is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/v{__version__}/{path}"


def absolute_links(text: str) -> str:
    """A document at the top of the checkout, with the links that work anywhere."""
    return _LINK.sub(lambda found: found[1] + web_address(found[2]), text)


PYTHON_README = f"""\
# hostnet for Pulumi, in Python

A Linux host's network in a [Pulumi](https://www.pulumi.com) stack: bridges, TAPs of microVMs, NAT, port forwards.

```python
import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("microvm", addresses=["10.0.0.1/24"])
web = hostnet.TapBinding("web", bridge=bridge.name, guest={{"hostname": "web"}})
hostnet.NatGateway("nat", internal_interfaces=[bridge.name])
pulumi.export("kernelIpArg", web.guest.kernel_ip_arg)
```

Documentation, source and licence (Apache-2.0): [{REPOSITORY.removeprefix("https://")}]({REPOSITORY}).
"""

NODEJS_README = f"""\
# hostnet for Pulumi, in TypeScript and JavaScript

A Linux host's network in a [Pulumi](https://www.pulumi.com) stack: bridges, TAPs of microVMs, NAT, port forwards.

```typescript
import * as hostnet from "pulumi-hostnet";

const bridge = new hostnet.Bridge("microvm", {{ addresses: ["10.0.0.1/24"] }});
const web = new hostnet.TapBinding("web", {{ bridge: bridge.name, guest: {{ hostname: "web" }} }});
new hostnet.NatGateway("nat", {{ internalInterfaces: [bridge.name] }});
export const kernelIpArg = web.guest.kernelIpArg;
```

Documentation, source and licence (Apache-2.0): [{REPOSITORY.removeprefix("https://")}]({REPOSITORY}).
"""
