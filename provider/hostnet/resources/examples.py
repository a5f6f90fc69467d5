"""An example of each resource in each language: the files of programs/, which the tests compile and run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Language, as a fenced block names it: its name for people, and the ending of its files. In the order of the documents.
LANGUAGES: Final = {
    "python": ("Python", "py"),
    "typescript": ("TypeScript", "ts"),
    "go": ("Go", "go"),
    "yaml": ("YAML", "yaml"),
}
PROGRAMS: Final = Path(__file__).parent / "programs"


def example(name: str, language: str, go_module: str) -> str:
    """A program that uses a resource.

    Args:
        name: The last part of the resource's token.
        language: One of `LANGUAGES`.
        go_module: What a program in Go imports.
    """
    text = (PROGRAMS / f"{name.lower()}.{LANGUAGES[language][1]}").read_text(encoding="utf-8")
    return text.replace("MODULE", go_module) if language == "go" else text


def blocks(name: str, go_module: str) -> dict[str, str]:
    """The example in each language, as a fenced block."""
    return {language: f"```{language}\n{example(name, language, go_module)}```\n" for language in LANGUAGES}
