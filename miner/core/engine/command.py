"""A user's own server as an engine: what it is started from (CommandSpec), and how (CommandLauncher)."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from miner.core.engine.command_diagnosis import explain_command, stall_of
from miner.core.engine.diagnosis import Reason
from miner.core.engine.environment import command_environment
from miner.core.engine.launch_plan import LaunchPlan, child_plan
from miner.core.engine.run_marker import VARIABLE
from miner.errors import ConfigError

PORT = "${PORT}"
_MOST_AT_ONCE = 256
"""Requests that a command of unknown slots gets at once: as many as vLLM computes by default."""
_SHOWN_CHARACTERS = 80
_SECRET_WORDS = ("key", "token", "secret", "password")
_SLEEP_OPTION = "--enable-sleep-mode"


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A server that we run: `[backends.NAME]` with a `command`.

    Raises:
        ConfigError: it cannot work; names the key of the file.
    """

    backend: str
    """NAME."""
    argv: tuple[str, ...]
    """Program and arguments; ${PORT} is the port for it."""
    slots: int | None = None
    """Requests that it works on at once; None: unknown."""
    port: int | None = None
    """None: a free one, another at each start."""
    ready: tuple[str, ...] = ("/health",)
    """Paths of the ready check: the first that does not return 404 counts."""
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Variables besides those of `command_environment`; ${PORT} is replaced here, too."""
    directory: Path | None = None
    """Its working directory; None: the user's home."""
    stop_signal: str = "SIGTERM"
    api_key: str | None = field(default=None, repr=False)
    """The key of its API, for the ready check."""
    sleep: int | None = None
    """The level of vLLM's sleep in which it waits instead of being stopped for another engine; None: it is stopped."""

    log_lines: ClassVar[int] = 400  # vLLM's reason stands above the tracebacks of two processes

    @property
    def parallel(self) -> int:
        """Requests that it gets at once."""
        return self.slots or _MOST_AT_ONCE

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0].strip():
            raise self._wrong("command", "names no program")
        if self.port is None and not any(PORT in text for text in (*self.argv, *(value for _, value in self.env))):
            raise self._wrong(
                "command", f"has no {PORT}", f"Write {PORT} where the command takes its port, or set `port`."
            )
        if not hasattr(signal, self.stop_signal):
            raise self._wrong("stop_signal", f"{self.stop_signal} is not a signal of this system")
        if self.sleep is not None and not self._may_sleep():
            raise self._wrong("sleep", f"the command has no {_SLEEP_OPTION}", f"Add {_SLEEP_OPTION} to the command.")

    @property
    def alias(self) -> str:
        """The engine's name: that of the backend."""
        return self.backend

    @property
    def title(self) -> str:
        """What messages call it, after "The"."""
        return f"command of backend {self.backend!r} ({self.shown})"

    @property
    def shown(self) -> str:
        """The beginning of the command, without secrets."""
        words, secret = list[str](), False
        for word in self.argv:
            name, equals, _ = word.partition("=")
            hidden = name.startswith("-") and any(part in name.lower() for part in _SECRET_WORDS)
            words.append("***" if secret else f"{name}=***" if hidden and equals else word)
            secret = hidden and not equals
        words[0] = Path(words[0]).name
        text = " ".join(shlex.quote(word) if any(map(str.isspace, word)) else word for word in words)
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS].rsplit(' ', 1)[0]} ..."

    @property
    def smaller_hint(self) -> str:
        """How it takes less memory."""
        return f"let the command take less, or correct `memory` and `gpu_memory` of [backends.{self.backend}]"

    @property
    def origin(self) -> str | None:
        """Nothing: the title has the command."""
        return None

    @property
    def start_timeout_setting(self) -> str:
        """The setting that limits a start without progress."""
        return f"start_timeout of [backends.{self.backend}]"

    def environment(self) -> dict[str, str]:
        """The environment of the command, before ${PORT} is replaced."""
        return {**command_environment(), **dict(self.env)}

    def program(self) -> Path | None:
        """The program's file; None if there is none."""
        name = os.path.expanduser(self.argv[0])
        if os.sep in name:
            path = (self.directory or Path.home()) / name
            return path if path.exists() else None
        found = shutil.which(name, path=self.environment().get("PATH"))
        return Path(found) if found else None

    def problem(self) -> Reason | None:
        """Why it cannot be started: its program or its directory is not there."""
        name, place = self.argv[0], f"[backends.{self.backend}]"
        if self.directory is not None and not self.directory.is_dir():
            return Reason(f"the directory {self.directory} does not exist", f"Correct `directory` of {place}.")
        path = self.program()
        if path is None:
            where = "does not exist" if os.sep in name else "is not on PATH"
            return Reason(
                f"the program {name} {where}", f"Install it, or write its full path into `command` of {place}."
            )
        if path.is_dir():
            return Reason(f"{path} is a directory", f"Name a program in `command` of {place}.")
        if not os.access(path, os.X_OK):
            return Reason(f"{path} is not executable", f"chmod +x {path}")
        return None

    def fingerprint(self) -> tuple[str, float, int] | None:
        """Path, time and size of the program."""
        try:
            path = self.program()
            found = path.stat() if path is not None else None
        except OSError:
            return None
        return None if path is None or found is None else (str(path), found.st_mtime, found.st_size)

    def stalled(self, lines: Sequence[str]) -> Reason | None:
        """What its ready check returned last, or on which port it listens instead."""
        return stall_of(lines, self.backend)

    def explain(self, lines: Sequence[str], status: int | None, *, served: bool) -> Reason:
        """Why it failed."""
        return explain_command(lines, status, self.backend, served=served)

    def _may_sleep(self) -> bool:
        # A vLLM may have it from a file.
        return any(word.split("=")[0] in (_SLEEP_OPTION, "--config") for word in self.argv)

    def _wrong(self, key: str, why: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"backends.{self.backend}.{key}: {why}.", hint=hint)


class CommandLauncher:
    """Starts commands."""

    name = "command"

    def plan(self, spec: CommandSpec, directory: Path) -> LaunchPlan:
        """How to start `spec`, with its files in `directory`."""
        program = spec.program()
        argv = [str(program) if program is not None else spec.argv[0], *spec.argv[1:]]
        marker = secrets.token_hex(8)
        env = {**spec.environment(), VARIABLE: marker}
        if spec.sleep is not None:
            env.setdefault("VLLM_SERVER_DEV_MODE", "1")  # only then it has routes for sleep
        arguments = {
            "command": argv,
            "env": env,
            "cwd": str(spec.directory or Path.home()),
            "port": spec.port,
            "ready": spec.ready,
            "stop_signal": int(getattr(signal, spec.stop_signal)),
            "api_key": spec.api_key,
            "marker": marker,
        }
        plan = child_plan("command", ("-I", "-S"), (), arguments, directory)
        return replace(plan, api_key=spec.api_key, marker=marker, checks=tuple(spec.ready))
