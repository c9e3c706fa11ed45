"""The names of OpenTelemetry's conventions stand in one module, and nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import miner
from miner.gateway.telemetry import conventions

PACKAGE = Path(miner.__file__).parent
TABLE = Path(conventions.__file__)
NAME = re.compile(r"(gen_ai|http|url|server|client|error|service)(\.[a-z_]+)+")


def names():
    """The names of attributes and metrics in the table."""
    return {value for value in vars(conventions).values() if isinstance(value, str) and NAME.fullmatch(value)}


def strings(path):
    """The strings of a module that are not its documentation."""
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_no_other_module_spells_a_name():
    known = names() | {name.replace(".", "_") for name in names()}
    assert {"gen_ai.operation.name", "gen_ai.server.time_to_first_token", "error.type"} <= known
    spelled = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        if path != TABLE
        for text in strings(path)
        if text in known or text.startswith(("gen_ai.", "gen_ai_"))
    }
    assert spelled == set()


def test_each_name_is_used_and_the_docs_name_the_release():
    used = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    assert {name for name in vars(conventions) if name.isupper() and not name.endswith("_VERSION")} <= used
    docs = " ".join((Path(__file__).parents[3] / "docs" / "gateway.md").read_text().split())
    assert f"generative AI, release {conventions.GEN_AI_VERSION}:" in docs
