"""How a program is set up: its command, its environment, and the files that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from miner.cli.launch.node import Node


@dataclass(frozen=True, slots=True)
class SetupFile:
    """A file that a program reads."""

    path: Path
    text: str
    owned: bool = True
    """Whether it is ours alone; else it is the user's own, which is saved first and can be restored."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a program is started with."""

    argv: tuple[str, ...]
    """Its command; no key is in it, for other users of the machine can read it."""
    environment: dict[str, str | None] = field(default_factory=dict)
    """Variables for the program; None: removed from it."""
    files: tuple[SetupFile, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user has to do or to know."""


@dataclass(frozen=True, slots=True)
class Client:
    """A program that `miner launch` knows."""

    name: str
    title: str
    programs: tuple[str, ...]
    """Names of its executable."""
    install: str
    """How to get it."""
    setup: Callable[[Node], Setup]
    agent: bool = True
    """Whether it sends prompts of an agent's length."""
