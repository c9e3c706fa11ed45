"""Where the repository's files are, for tests that start programs with them or read recordings."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
TEMPLATES = DATA / "templates"
