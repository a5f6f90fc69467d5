"""The rooms of `provider/hostnet`: imports run one way, no folder is too wide, and the map names every module.

Every import counts: at the top of a module, inside a function, and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "provider" / "hostnet"
ARCHITECTURE = TOP / "docs" / "architecture.md"
UNIT_TESTS = TOP / "tests" / "unit"
MOST_MODULES = 15
MOST_LINES = 60  # of a function: a screen

# Lowest first: a room imports only rooms of lines above its own. Rooms of one line do not import each other.
FLOORS = (
    ("hostnet",),  # the version
    ("hostnet.wire",),
    ("hostnet.agent.bundle",),
    ("hostnet.agent.indexes",),
    ("hostnet.agent.linux",),
    ("hostnet.agent.record",),
    ("hostnet.agent.plan",),
    ("hostnet.agent.dhcp",),
    ("hostnet.agent.nft",),
    ("hostnet.agent.routing",),
    ("hostnet.agent.firewalls",),
    ("hostnet.agent.lasting",),
    ("hostnet.agent.observe",),
    ("hostnet.agent.transaction",),
    ("hostnet.agent",),  # `main`, `__main__`: the process
    ("hostnet.hosts",),
    ("hostnet.fakes",),
    ("hostnet.resources.schema",),
    ("hostnet.resources",),
    ("hostnet.lifecycle",),
    ("hostnet.rpc", "hostnet.dynamic"),
    ("hostnet.cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def dotted(path: Path) -> str:
    """`provider/hostnet/wire/objects.py` as `hostnet.wire.objects`; a package has its folder's name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# What users write: programs that the schema shows as examples, no modules of the package.
EXAMPLES = PACKAGE / "resources" / "programs"
SOURCES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != EXAMPLES}
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def room_of(module: str, rooms: Mapping[str, int] = FLOOR) -> str:
    """The innermost room that a module is in.

    Raises:
        LookupError: It is in none: FLOORS lacks its folder.
    """
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        room = ".".join(parts[:length])
        if room in rooms:
            return room
    if len(parts) == 1 and module in rooms:
        return module
    raise LookupError(f"{module} is in no room: add its folder to FLOORS")


def imported(source: str, importer: str, known: Mapping[str, object] = SOURCES) -> set[str]:
    """The modules of the package that a module's text imports, wherever in the text the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, importer, known)
            found |= {inner if (inner := f"{base}.{alias.name}") in known else base for alias in node.names}
    return {name for name in found if name.split(".")[0] == "hostnet"}


def _absolute(node: ast.ImportFrom, importer: str, known: Mapping[str, object]) -> str:
    """The module that an `import from` names; a relative import starts at the importer's package."""
    if not node.level:
        return node.module or ""
    is_package = any(name.startswith(f"{importer}.") for name in known)
    up = importer.split(".")
    up = up[: len(up) - node.level + is_package]
    return ".".join([*up, *([node.module] if node.module else [])])


@functools.cache
def arrows() -> tuple[tuple[str, str], ...]:
    """(importer, imported) of the whole package."""
    return tuple(
        (importer, target)
        for importer, path in SOURCES.items()
        for target in sorted(imported(path.read_text(encoding="utf-8"), importer))
    )


def climbs(importer: str, target: str) -> bool:
    """Whether an import runs upwards, or sideways to another room of the same floor."""
    here, there = room_of(importer), room_of(target)
    return here != there and FLOOR[there] >= FLOOR[here]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The circles of a graph that a depth-first walk meets, each with its first node at both ends."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
            return
        if node in done:
            return
        for target in sorted(graph.get(node, ())):
            walk(target, [*path, node])
        done.add(node)

    for node in sorted(graph):
        walk(node, [])
    return found


def test_imports_run_downwards() -> None:
    """A room imports only rooms below it."""
    upwards = [arrow for arrow in arrows() if climbs(*arrow)]
    assert upwards == []


def test_no_module_imports_itself_through_others() -> None:
    """No circle, within a room or across rooms."""
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for importer, target in arrows():
        graph[importer].add(target)
    assert circles(graph) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE.parent)))
def test_a_folder_is_no_wider_than_a_look(folder: Path) -> None:
    """At most 15 modules, and a docstring of two sentences that says what the folder is for."""
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"[.!?](?=\s|$)", about)) >= 2, f"{folder}: say in two sentences what it is for"


@pytest.mark.parametrize("folder", ["provider", "tests", "tools", "benchmarks"])
def test_a_function_fits_a_screen(folder: str) -> None:
    """At most 60 lines, with its docstring. Generated modules have their generator's form."""
    long = [
        f"{path.relative_to(TOP)}: {node.name}"
        for path in (TOP / folder).rglob("*.py")
        if "protos" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MOST_LINES
    ]
    assert long == []


def test_a_unit_test_is_in_the_room_that_it_tests() -> None:
    """The folders of tests/unit are those of provider/hostnet; what tests the checkout itself is at the top."""
    folders = {path.parent.relative_to(UNIT_TESTS) for path in UNIT_TESTS.rglob("test_*.py")}
    assert [folder for folder in folders if not (PACKAGE / folder).is_dir()] == []


def mapped(page: str) -> dict[str, str]:
    """The map of docs/architecture.md: path below provider/hostnet to what is said about it.

    A folder ends in a slash. What stands deeper is inside the folder above it.
    """
    block = page.split("## The map", 1)[1].split("```", 2)[1]
    found: dict[str, str] = {}
    inside: list[tuple[int, str]] = []
    for line in block.splitlines()[1:]:
        match = re.fullmatch(r"( *)(\S+) +(\S.*)", line)
        assert match, f"the map has a line that is no `name  what it is`: {line!r}"
        depth, name, text = len(match[1]), match[2], match[3]
        inside = [(outer, path) for outer, path in inside if outer < depth]
        path = (inside[-1][1] if inside else "") + name
        if name.endswith("/"):
            inside.append((depth, path))
        assert path not in found, f"the map names {path} twice"
        found[path] = text
    return found


def test_the_map_names_every_room_and_every_module() -> None:
    """docs/architecture.md has a line for each folder and each module, and none for what is gone."""
    there = {str(path.relative_to(PACKAGE)) for path in SOURCES.values() if path.name != "__init__.py"}
    there |= {f"{folder.relative_to(PACKAGE)}/" for folder in FOLDERS if folder != PACKAGE}
    named = set(mapped(ARCHITECTURE.read_text(encoding="utf-8")))
    assert sorted(there - named) == [], "docs/architecture.md, `The map`: add a line for each"
    assert sorted(named - there) == [], "docs/architecture.md, `The map`: these are gone"


def test_every_kind_of_import_is_seen() -> None:
    """At the top, in a function, under TYPE_CHECKING, of a name or a module, and relative ones."""
    source = """
import hostnet.rpc.codec
from hostnet.hosts import pool
from hostnet.wire.errors import Code
from . import later
if TYPE_CHECKING:
    from hostnet.cli import main
def function():
    from hostnet.dynamic.process import run
"""
    known = dict.fromkeys(("hostnet.hosts.pool", "hostnet.cli.main", "hostnet.lifecycle.later"))
    assert imported(source, "hostnet.lifecycle.crud", known) == {
        "hostnet.rpc.codec",
        "hostnet.hosts.pool",
        "hostnet.wire.errors",
        "hostnet.lifecycle.later",
        "hostnet.cli.main",
        "hostnet.dynamic.process",
    }


@pytest.mark.parametrize(
    ("importer", "target", "upwards"),
    [
        ("hostnet.rpc.servicer", "hostnet.wire.errors", False),
        ("hostnet.rpc.servicer", "hostnet.rpc.codec", False),
        ("hostnet.wire.errors", "hostnet", False),
        ("hostnet.rpc.servicer", "hostnet.dynamic.process", True),
        ("hostnet.resources.schema.model", "hostnet.resources.bridge", True),
        ("hostnet.agent.linux.netlink", "hostnet.agent.main", True),
        ("hostnet.wire.objects", "hostnet.resources", True),
    ],
)
def test_upwards_is_told_from_downwards(importer: str, target: str, upwards: bool) -> None:  # noqa: FBT001 - a case
    """The floors, by example."""
    assert climbs(importer, target) is upwards


def test_a_circle_is_found() -> None:
    """Of three modules, beside others."""
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    assert circles(graph) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b"}, "b": set()}) == []
