"""The machine: Python and its packages, text encoding, memory, disk, open files."""

from __future__ import annotations

import codecs
import locale
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from miner import __version__
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check, Row, Verdict, ok, skipped
from miner.core.models.memory.verdict import readable
from miner.errors import MinerError

_GROUP = "Machine"
_OLDEST = (3, 11)
_LITTLE_MEMORY = 1 << 30
_LITTLE_DISK = 5 << 30
_NO_DISK = 256 << 20
_SPARE_FILES = 128
"""Descriptors for everything that is no connection."""
_QUEUED_PER_ENGINE = 256
_EXTRAS = {"serve": ("aiohttp", "prometheus_client", "tomlkit"), "cli": ("rich", "prompt_toolkit")}


def checks() -> list[Check]:
    """The checks of this file."""
    return [
        Check("Python", _GROUP, python),
        Check("text encoding", _GROUP, encoding),
        Check("memory", _GROUP, memory, 30.0),
        Check("disk", _GROUP, disk),
        Check("open files", _GROUP, open_files),
    ]


def python(facts: Facts) -> Iterator[Row]:
    """The interpreter, and the packages that commands need."""
    version = platform.python_version()
    seen: dict[str, Any] = {
        "python": version,
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "miner": __version__,
        "executable": sys.executable,
    }
    if sys.version_info < _OLDEST:
        yield Row(
            "Python", "problem", f"Python {version} is too old: 3.11 is needed", "uv python install 3.13", seen=seen
        )
    else:
        yield ok("Python", f"miner {__version__}, Python {version}, {platform.system()} {platform.machine()}", **seen)
    for extra, packages in _EXTRAS.items():
        missing = [name for name in packages if _is_missing(name)]
        if missing:
            needs = "`miner serve` does not start" if extra == "serve" else "`miner chat` does not start"
            yield Row(
                f"extra {extra}",
                "note",
                f"{needs}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
                f'pip install "llm-service-backends[{extra}]"',
                seen={"missing": missing},
            )
    if sys.platform != "win32" and _is_missing("uvloop"):
        yield Row(
            "uvloop",
            "note",
            "uvloop is missing: requests through the node cost a third more",
            'pip install "llm-service-backends[serve]"',
        )


def _is_missing(package: str) -> bool:
    try:
        return find_spec(package) is None
    except (ImportError, ValueError):
        return True


def encoding(facts: Facts) -> Iterator[Row]:
    """Whether text in and out is UTF-8."""
    found = {
        "output": getattr(sys.stdout, "encoding", None),
        "files": sys.getfilesystemencoding(),
        "locale": locale.getpreferredencoding(False),
        "LANG": facts.environment.get("LANG"),
        "LC_ALL": facts.environment.get("LC_ALL"),
    }
    wrong = {name: found[name] for name in ("output", "files", "locale") if not _is_utf8(found[name])}
    if wrong:
        words = ", ".join(f"{name}: {value}" for name, value in wrong.items())
        yield Row(
            "text encoding",
            "note",
            f"not UTF-8 everywhere ({words}): other letters are replaced or refused",
            "export LC_ALL=C.UTF-8",
            "Or for Python alone: export PYTHONUTF8=1",
            found,
        )
    else:
        yield ok("text encoding", "UTF-8", **found)


def _is_utf8(name: str | None) -> bool:
    try:
        return codecs.lookup(name or "").name == "utf-8"
    except LookupError:
        return False


def memory(facts: Facts) -> Iterator[Row]:
    """Free memory, the container's limit, and what a file's models take together."""
    from miner.core.models.memory.available import available_memory

    found = available_memory(gpus=False)
    machine = _machine_total()
    limited = machine is not None and found.total is not None and found.total < machine
    seen: dict[str, Any] = {"available": found.available, "total": found.total, "machine": machine, "limited": limited}
    if found.available is None:
        yield skipped("memory", "this system does not say what is free", **seen)
    else:
        words = f"{readable(found.available)} free" + (f" of {readable(found.total)}" if found.total else "")
        words += f" (limit of the container; the machine has {readable(machine)})" if limited and machine else ""
        if found.available < _LITTLE_MEMORY:
            yield Row("memory", "note", words, "ps aux --sort=-rss | head", "Only very small models fit.", seen)
        else:
            yield ok("memory", words, **seen)
    if facts.loaded is not None:
        yield from _table(facts)


def _machine_total() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _table(facts: Facts) -> Iterator[Row]:
    """What `miner fit` says of the whole file."""
    from miner.core.llms.pool.table_fit import fit_table

    assert facts.loaded is not None
    try:
        table = fit_table(facts.loaded, facts.settings)
    except MinerError as error:
        yield skipped("models together", error.message.rstrip("."))
        return
    seen = {"memory": table.memory, "together": table.together}
    for engine in table.engines:
        if engine.problem and not engine.missing:  # that, Settings or Engines says
            verdict: Verdict = "note" if engine.crowded else "problem"
            yield Row(
                f"{engine.name}: memory",
                verdict,
                engine.problem.rstrip("."),
                f"miner fit {engine.name}",
                engine.hint,
                seen,
            )
    words = " ".join(each for each in table.sentences() if "fit" not in each.partition(":")[0] or ":" not in each)
    if words:
        yield ok("models together", words.rstrip("."), **seen)


def disk(facts: Facts) -> Iterator[Row]:
    """Room in the directories that are written to, and whether they can be."""
    for name, setting, find in _directories(facts):
        try:
            path = find()
        except (RuntimeError, OSError, MinerError) as error:
            yield Row(f"disk: {name}", "problem", f"where it is cannot be told: {error}", "export HOME=/path/to/home")
            continue
        yield _room(name, path, setting)


def _directories(facts: Facts) -> Iterator[tuple[str, str, Any]]:
    from miner.core.llms.llamacpp.models import models_directory
    from miner.core.models.directory import cache_directory
    from miner.gateway.store.database import default_path

    yield "models", "MODELS_DIR", lambda: models_directory(facts.settings)
    yield "cache", "XDG_CACHE_HOME", cache_directory
    yield "state", "XDG_STATE_HOME", lambda: default_path(facts.gateway.serve_store_file).parent
    yield "temporary files", "TMPDIR", lambda: Path(tempfile.gettempdir())


def _room(name: str, path: Path, setting: str) -> Row:
    row = f"disk: {name}"
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    seen: dict[str, Any] = {"directory": str(path), "exists": path.exists()}
    if not there.is_dir():
        return Row(
            row, "problem", f"{there} is no directory", f"export {setting}=/path/to/another/directory", seen=seen
        )
    try:
        usage = shutil.disk_usage(there)
        seen |= {"free": usage.free, "total": usage.total}
        with tempfile.TemporaryFile(dir=there, prefix=".miner-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        line = f"export {setting}=/path/to/another/directory"
        if error.errno == 28:
            line = f"df -h {there} && du -sh {there}/* | sort -h | tail"
        return Row(
            row, "problem", f"{there} cannot be written: {(error.strerror or str(error)).lower()}", line, seen=seen
        )
    free = f"{readable(usage.free)} free in {path}"
    if usage.free < _NO_DISK:
        return Row(row, "problem", f"only {free}", f"du -sh {there}/* | sort -h | tail", seen=seen)
    if usage.free < _LITTLE_DISK and name in ("models", "cache"):
        return Row(row, "note", free, f"export {setting}=/path/on/a/larger/disk", "A model takes 1 to 50 GiB.", seen)
    return ok(row, free, **seen)


def open_files(facts: Facts) -> Iterator[Row]:
    """Whether the limit of open files allows as many connections as may be running and queued."""
    try:
        import resource
    except ImportError:
        yield skipped("open files", "this system has no such limit")
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    settings = facts.gateway
    running = settings.serve_max_running or 64
    needed = _SPARE_FILES + 2 * running + settings.serve_max_queued + min(facts.settings.max_queue, _QUEUED_PER_ENGINE)
    seen = {"soft": None if soft == unlimited else soft, "hard": None if hard == unlimited else hard, "needed": needed}
    if hard != unlimited and hard < needed:
        yield Row(
            "open files",
            "problem",
            f"at most {hard} may be open; {running} running and "
            f"{settings.serve_max_queued} waiting requests need about {needed}",
            f"ulimit -n {max(needed, 65536)}",
            "As another user cannot raise it: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536 in Docker.",
            seen,
        )
    elif soft != unlimited and soft < needed:
        yield ok("open files", f"{soft}, which `miner serve` raises to {'any' if hard == unlimited else hard}", **seen)
    else:
        yield ok("open files", f"{'unlimited' if soft == unlimited else soft}; about {needed} are needed", **seen)


def client_checks() -> list[Check]:
    """What matters for a node elsewhere."""
    return [Check("Python", _GROUP, python), Check("text encoding", _GROUP, encoding)]
