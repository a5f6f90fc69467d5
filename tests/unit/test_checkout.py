"""The checkout's own files: pre-commit's checks are those of `make lint`, and a person can read the documents."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hostnet.wire.protocol import Request

from tools.dist.plugin import COMMAND_LINE
from tools.paths import CHECKOUT

WIDTH = 120
# Words over which a reader stumbles whose first language is another one: there is a plainer one for each.
STUMBLING = re.compile(
    r"\b(shall|anew|mend(s|ed)?|wish(es)?|strangers?|seeing|somebody else('s)?|nobody's|for what it is worth)\b",
    re.IGNORECASE,
)
DOCUMENTS = [
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *sorted((CHECKOUT / "examples").rglob("*.md")),
]

# Generated ones, too.
LINKING = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "sdk/**/*.md", "templates/**/*.md", "tests/**/*.md")
    for path in CHECKOUT.glob(pattern)
    if "node_modules" not in path.parts
)


def test_pre_commit_checks_what_make_lint_checks() -> None:
    """The same commands, in the same order."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(PY)", ".venv/bin/python") for line in recipe[1].splitlines()]
    configuration = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^ +entry: (.*)$", configuration, re.MULTILINE) == commands
    assert re.findall(r"^ +- repo: (.*)$", configuration, re.MULTILINE) == ["local"]


def test_the_checkout_as_a_plugin_requires_what_the_plugin_imports() -> None:
    """requirements.txt, which `pulumi package add PATH` installs: without what only the command line imports."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [each for each in project["dependencies"] if re.split(r"\W", each)[0] not in COMMAND_LINE]
    assert len(wanted) == len(project["dependencies"]) - len(COMMAND_LINE)
    lines = (CHECKOUT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_the_plugin_does_not_import_what_the_command_line_needs() -> None:
    """It runs without it, with every module of its rooms."""
    rooms = "rpc.__main__", "rpc.construct", "hosts.ssh", "lifecycle.crud"
    script = f"import sys; sys.modules.update(dict.fromkeys({sorted(COMMAND_LINE)!r})); "
    script += "import " + ", ".join(f"hostnet.{name}" for name in rooms)
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["tools.demo", "tools.docs_listing"])
def test_the_demo_needs_no_development_tools(module: str) -> None:
    """`make demo` and `make docs` install the dependencies alone: what these import is none of the extra "dev"."""
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    missing = [
        name for name, of in packages_distributions().items() if {each.lower() for each in of} & {*extras["dev"]}
    ]
    assert {"pytest", "pyroute2"} <= {*missing}
    script = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_make_has_the_targets_that_a_document_names(path: Path) -> None:
    """In backticks, and in listings of commands."""
    named = re.findall(r"(?:`|^ {4})make ([a-z -]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert {target for line in named for target in line.split()} - {*phony[1].split()} == set()


def test_developers_can_run_what_they_read() -> None:
    """The tests that the page names are there, and an agent understands the request that it shows."""
    page = (CHECKOUT / "docs" / "developing.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ +\.venv/bin/python -m pytest (.*)$", page, re.MULTILINE)
    tests = [word for command in commands for word in shlex.split(command)]
    assert len(tests) >= 3
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(collect, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (request,) = re.findall(r"^ +echo '(.*)' \|$", page, re.MULTILINE)
    assert Request.parse(request).op == "facts"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_line_of_a_document_is_too_wide(path: Path) -> None:
    """At most 120 columns outside of listings, which show what a program printed."""
    wide = [line for line in prose(path).splitlines() if len(line) > WIDTH]
    assert wide == []


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path: Path) -> None:
    """A link to a file of the checkout, and to a heading in it."""
    text = prose(path)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
        if re.match(r"https?:", link):
            continue
        target, _, heading = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        if heading:
            assert heading in headings(file.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_files_that_a_document_names_are_there(path: Path) -> None:
    """From the top of the checkout, from provider/hostnet, or from the agent's room."""
    # Without the table of an old commit, whose files have other names now.
    text = re.sub(r"^\| part \| file then \|\n(\|.*\n)+", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    rooms = "tests|tools|provider|benchmarks|docs|examples|agent|wire|lifecycle|resources|hosts|rpc|fakes|dynamic|cli"
    places = (CHECKOUT, CHECKOUT / "provider" / "hostnet", CHECKOUT / "provider" / "hostnet" / "agent")
    named = re.findall(rf"`((?:{rooms}|nft|observe|plan|record|transaction|linux)/[\w./-]+)`", text)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_words_are_plain() -> None:
    """In the documents, and in what provider/hostnet says: docstrings, comments, messages, descriptions."""
    sources = [path for path in (CHECKOUT / "provider").rglob("*.py") if "protos" not in path.parts]
    found = [
        f"{path.relative_to(CHECKOUT)}:{number}: {match[0]}"
        for path in [*DOCUMENTS, *sources]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in STUMBLING.finditer(line)
    ]
    assert found == []


def prose(path: Path) -> str:
    """A document without its listings and its comments."""
    return re.sub(r"^```.*?^```$|<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
