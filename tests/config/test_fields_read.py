"""A setting that nothing reads is a promise that is not kept."""

import ast
from pathlib import Path

import pytest

import miner
from miner.config.config import MinerConfig
from miner.config.vllm_command import VLLMCommandConfig

PACKAGE = Path(miner.__file__).parent
NOT_YET: set[str] = set()
"""Settings of parts that are being written. Empty it when they are there."""


SETTINGS = {"settings", "_settings", "config"}
"""What the code calls an object with settings: other objects have attributes of the same names."""


def last_name(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def names_read(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Settings that the code reads, and beginnings of names that it makes: `getattr(x, f"default_{name}")`."""
    exact, beginnings = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and last_name(node.value) in SETTINGS:
            exact.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            match node.args[1]:
                case ast.Constant(value=str(name)):
                    exact.add(name)
                case ast.JoinedStr(values=[ast.Constant(value=str(beginning)), *_]):
                    beginnings.add(beginning)
    return exact, beginnings


def test_it_finds_what_is_read():
    code = "settings.b = 1\nprint(config.c, x.config.c2, a.no, getattr(a, 'd'), getattr(a, f'e_{x}'))"
    assert names_read(ast.parse(code)) == ({"c", "c2", "d"}, {"e_"})


@pytest.mark.parametrize("settings", [MinerConfig, VLLMCommandConfig])
def test_every_setting_is_read_somewhere(settings):
    exact: set[str] = set()
    beginnings: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "tests" and path != PACKAGE / "config" / "config.py":
            found = names_read(ast.parse(path.read_text()))
            exact |= found[0]
            beginnings |= found[1]
    unread = [
        name
        for name in settings.model_fields
        if name not in exact and not name.startswith(tuple(beginnings) or ("\0",))
    ]
    assert set(unread) <= NOT_YET
