"""Which packages of engines are installed, by their metadata: nothing of them is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("xllamacpp", "llama-cpp-python", "vllm")


def installed_engines() -> dict[str, str]:
    """Versions of the installed packages with an engine, by their names."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
