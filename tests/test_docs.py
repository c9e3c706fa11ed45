"""What the documentation names exists: links, anchors, paths, names in linked modules, commands."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./~-])((?:miner|tests|scripts|docs|bench|examples)/[\w./-]*|\.ci/run)")
ELSEWHERE = {"miner/keys.json", "miner/models"}
"""Paths below the user's own directories."""

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[str, Path, str]]:
    """Text, file and anchor of each link that stays in the repository."""
    found = []
    for text, target in LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            file, _, anchor = target.partition("#")
            found.append((text, (page.parent / file).resolve() if file else page, anchor))
    return found


@by_page
def test_links_and_anchors_exist(page):
    assert [str(file) for _, file, _ in links(page) if not file.exists()] == []
    assert [f"{file}#{anchor}" for _, file, anchor in links(page) if anchor and anchor not in anchors(file)] == []


@by_page
def test_paths_exist(page):
    paths = {path.rstrip(".") for path in PATH.findall(page.read_text())}
    named = {path for path in paths if not re.search(r"NAME|\.\.\.", path)} - ELSEWHERE
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@by_page
def test_names_in_linked_modules_exist(page):
    """[`name`](module.py): the module defines it."""
    named = [
        (name[1], file)
        for text, file, _ in links(page)
        if file.suffix == ".py" and (name := re.fullmatch(r"`(?:\w+\.)*(\w+)(?:\(\))?`", text))
    ]
    definition = r"^\s*(?:class|(?:async )?def) {0}\b|^{0}\b"
    assert [
        f"{name} in {file.relative_to(ROOT)}"
        for name, file in named
        if not re.search(definition.format(name), file.read_text(), re.MULTILINE)
    ] == []


def test_every_page_of_docs_is_linked():
    linked = {file for page in PAGES for _, file, _ in links(page)}
    assert [page for page in PAGES if page.parent.name == "docs" and page not in linked] == []


def test_contributing_lists_every_script():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.suffix in ("", ".sh") and path.is_file()]
    assert len(scripts) > 5
    assert [path.name for path in scripts if f"`scripts/{path.name}`" not in text] == []
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []


def test_ci_and_hooks_run_the_listed_commands():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    steps = (ROOT / ".ci" / "run").read_text()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    called = set(re.findall(r"^scripts/\S+", steps, re.MULTILINE)) | set(entries)
    assert len(called) > 5
    assert [command for command in called if f"`{command}`" not in text] == []
    assert "scripts/lint" in steps
    assert {"scripts/lint", "scripts/types", "scripts/unit"} == set(entries)


def test_ci_runs_the_commands_of_the_readme():
    readme, steps = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ('uv run miner generate "Why is the sky blue?"', "uv run pytest"):
        assert command in readme
        assert re.search(rf"^{re.escape(command)}", steps, re.MULTILINE)


def test_the_readmes_messages_exist():
    """The fixed parts of each message under Troubleshooting occur in the code."""
    table = (ROOT / "README.md").read_text().partition("## Troubleshooting")[2]
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    code = " ".join(path.read_text() for path in (ROOT / "miner").rglob("*.py"))
    assert len(messages) > 8
    parts = {part for message in messages for part in re.split(r"\.\.\.|\b[NM]\b", message)}
    assert [part for part in parts if len(part) > 10 and part.strip() not in code] == []
