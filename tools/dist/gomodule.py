"""The Go module, as Go's module proxies have it (https://go.dev/ref/mod#zip-files)."""

from pathlib import Path

from hostnet import __version__
from hostnet.resources.package_schema import GO_MODULE

from tools.dist.archives import File, write_zip
from tools.dist.sources import tracked

_SDK = "sdk/go/hostnet/"
NAME = f"hostnet-go-v{__version__}.zip"


def build(target: Path) -> None:
    """Build it into a folder. What people `go get` is the repository, at the tag sdk/go/hostnet/v<version>."""
    files = {name.removeprefix(_SDK): file for name, file in tracked(_SDK).items()}
    files["LICENSE"] = tracked("LICENSE")["LICENSE"]
    prefix = f"{GO_MODULE}@v{__version__}"
    write_zip(target / NAME, {f"{prefix}/{name}": File(files[name].data) for name in sorted(files)})
