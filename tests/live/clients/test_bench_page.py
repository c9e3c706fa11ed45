"""The page of `miner bench --html` in a real browser: its policy lets its own script run, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from miner.cli.bench.report.html.page import page
from tests.cli.bench.results import a_result

pytestmark = pytest.mark.clients

WAIT = 90.0


async def seen_by_chromium(path: Path, home: Path) -> tuple[str, str]:
    """The page's elements after its script ran, and what the browser's console says."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), "")
    assert browser, "install chromium (apt-get install chromium)"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")
    child = await asyncio.create_subprocess_exec(
        browser, *flags, f"--user-data-dir={home / 'profile'}", path.as_uri(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, log = await asyncio.wait_for(child.communicate(), WAIT)
    except TimeoutError:
        child.kill()
        raise
    return out.decode(), "\n".join(line for line in log.decode(errors="replace").splitlines() if "CONSOLE" in line)


async def test_the_page_runs_under_its_own_policy_and_an_altered_script_does_not(tmp_path: Path):
    text = page([a_result(), a_result(engine="vLLM 0.32.0")], ["a.json", "b.json"])
    good, altered = tmp_path / "good.html", tmp_path / "altered.html"
    good.write_text(text, encoding="utf-8")
    altered.write_text(text.replace('"use strict";', '"use strict"; '), encoding="utf-8")
    elements, console = await seen_by_chromium(good, tmp_path)
    assert console == ""
    assert elements.count("<figure>") == text.count("<figure>") > 8
    _, console = await seen_by_chromium(altered, tmp_path)
    assert "Content Security Policy" in console
