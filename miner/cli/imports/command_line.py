"""Command lines in other tools' files: split as they split them, and whether the program is a llama-server."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePath

from miner.cli.imports.draft import is_secret, readable

_LLAMA_SERVER = re.compile(r"llama-server(?:[-_.].*)?", re.IGNORECASE)
_LLAMA_IMAGE = re.compile(r"/llama\.cpp:(?:server|full)\b")
_SHELL_SIGNS = re.compile(r"&&|\|\||[|;<>`]|\$\(")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments."""

    program: str
    arguments: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    """What `env NAME=value` before it sets."""

    @property
    def words(self) -> list[str]:
        """Program and arguments."""
        return [self.program, *self.arguments]

    @property
    def is_llama_server(self) -> bool:
        """Whether the program's name is that of a llama-server."""
        return _LLAMA_SERVER.fullmatch(PurePath(self.program).name) is not None

    @property
    def kind(self) -> str:
        """The kind of a backend that runs it."""
        if self.is_llama_server:
            return "llamacpp"
        name = PurePath(self.program).name
        if name == "vllm" or "vllm.entrypoints.openai.api_server" in self.arguments:
            return "vllm"
        return "ollama" if name == "ollama" else "openai"

    @property
    def shell_signs(self) -> list[str]:
        """Words that only a shell understands, and none runs."""
        return [word for word in self.arguments if _SHELL_SIGNS.fullmatch(word)]

    def option(self, *names: str) -> str | None:
        """The value of an option: `--port 80` or `--port=80`."""
        for place, word in enumerate(self.arguments):
            name, equals, value = word.partition("=")
            if name in names:
                if equals:
                    return value
                return self.arguments[place + 1] if place + 1 < len(self.arguments) else None
        return None

    @property
    def takes_alias(self) -> bool:
        """Whether --alias behind it names the model: a llama-server, or its container."""
        return self.is_llama_server or any(_LLAMA_IMAGE.search(word) for word in self.arguments)

    @property
    def served_name(self) -> str | None:
        """What the server calls its model, where the command says it: --alias of llama-server, vLLM's names."""
        if self.takes_alias:
            names = self.option("-a", "--alias")
            return names.split(",")[0].strip() if names else None
        if self.kind != "vllm":
            return None
        named = self.option("--served-model-name") or self.option("--model")
        if named is None and "serve" in self.arguments[:-1]:
            named = self.arguments[self.arguments.index("serve") + 1]
        return named if named and not named.startswith("-") else None

    def secrets(self) -> list[tuple[int, str, str]]:
        """Secrets among the words: place, the words before the secret in it, the secret."""
        found = []
        words = self.words
        for place, word in enumerate(words):
            name, equals, value = word.partition("=")
            if is_secret(name.lstrip("-")) and equals and value:
                found.append((place, f"{name}=", value))
            elif word.startswith("-") and not equals and is_secret(word.lstrip("-")):
                found += [(place + 1, "", value) for value in words[place + 1 : place + 2] if value[:1] != "-"]
        return found


def without_comments(text: str) -> str:
    """The text without lines that begin with #."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def split_command(text: str) -> Command:
    """Split a command as llama-swap does: by a shell's rules of quoting, in any number of lines, without a shell.

    Raises:
        ValueError: a quote is not closed, or there is nothing.
    """
    lines = []
    for line in without_comments(text).split("\n"):
        stripped = line.strip()
        lines.append(stripped.removesuffix("\\") + " " if stripped.endswith("\\") else line)
    try:
        words = shlex.split("\n".join(lines))
    except ValueError as error:
        raise ValueError(f"{str(error).lower()} in {readable(text.strip())[:60]!r}") from None
    env: list[tuple[str, str]] = []
    if words and PurePath(words[0]).name == "env":
        rest = words[1:]
        while rest and _ASSIGNMENT.match(rest[0]):
            name, _, value = rest.pop(0).partition("=")
            env.append((name, value))
        if rest and not rest[0].startswith("-"):
            words = rest
        else:
            env = []
    if not words or not words[0]:
        raise ValueError("the command is empty")
    return Command(words[0], tuple(words[1:]), tuple(env))
