"""Reads YAML of an unknown hand: only plain values, aliases bounded, keys that stand twice noticed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.errors import ConfigError

if TYPE_CHECKING:
    import yaml

_MAX_BYTES = 4 << 20
_MAX_VALUES = 200_000
"""Values after all aliases are followed."""


def read_text(path: Path) -> str:
    """The text of a file; raises ConfigError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES >> 20} MiB.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    if "\0" in text:
        raise ConfigError(f"{path} holds a NUL character: it is not a text file.")
    return text


def read_yaml(path: Path, *, newer: bool = False) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The file's table, whose keys are text at all depths; and the keys that stand twice, with what became of them.

    Args:
        newer: as YAML 1.2 has it, and Go reads it: `on`, `off`, `yes` and `no` are texts.

    Raises:
        ConfigError: it cannot be read, is not YAML or not a table, or is too large; also without PyYAML.
    """
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "Reading YAML needs PyYAML, which is not installed.",
            operator_hint='Run `pip install "llm-service-backends[import]"`.',
        ) from None
    text = read_text(path)
    try:
        loader = _loader(newer)(text)
        node = loader.get_single_node()
        twice: list[tuple[str, str]] = []
        if node is not None:
            _check(node, path, twice)
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{line}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}.") from None
    except RecursionError:
        raise ConfigError(f"{path}: its values are nested too deeply.") from None
    except (ValueError, OverflowError, TypeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}.") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a configuration: it holds no keys.")
    return _with_text_keys(content, path), twice


def _loader(newer: bool) -> type[yaml.SafeLoader]:
    """SafeLoader, without times: an unquoted 2024-02-01 or 8080:80 is a text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    resolvers = {}
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept = [entry for entry in entries if not entry[0].endswith((":timestamp", ":int", ":bool"))]
        resolvers[first] = kept + [entry for entry in entries if entry[0].endswith(":bool") and not newer]
    Loader.yaml_implicit_resolvers = resolvers
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789")
    )
    if newer:
        Loader.add_implicit_resolver(
            "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
        )
    Loader.add_constructor("tag:yaml.org,2002:int", _integer)
    return Loader


def _integer(loader: yaml.SafeLoader, node: yaml.Node) -> int | str:
    import yaml

    assert isinstance(node, yaml.ScalarNode)
    text = loader.construct_scalar(node)
    digits = text.lstrip("+-")
    if len(digits) > 100:
        return text
    octal = digits[0] == "0" and digits.isdigit() and set(digits) <= set("01234567")
    base = 16 if digits.startswith("0x") else 8 if octal or digits.startswith("0o") else 10
    number = int(digits, base)
    return -number if text.startswith("-") else number


def _check(root: yaml.Node, path: Path, twice: list[tuple[str, str]]) -> None:
    """Bound the values that aliases make of it, and collect keys that stand twice."""
    import yaml

    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node, where: str) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_:
            raise ConfigError(f"{path}:{node.start_mark.line + 1}: a value that contains itself.")
        open_.add(id(node))
        total = 1
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                inside = f"{where}.{name}" if where else name
                if name in lines and name != "<<":
                    twice.append((inside, f"line {lines[name]} sets it already: line {key.start_mark.line + 1} counts"))
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    key.tag = "tag:yaml.org,2002:str"  # a key is a text: 1 and true are two keys
                lines[name] = key.start_mark.line + 1
                total += size(key, inside) + size(value, inside)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(each, where) for each in node.value)
        if total > _MAX_VALUES:
            raise ConfigError(f"{path}: more than {_MAX_VALUES} values, once its aliases are followed.")
        open_.discard(id(node))
        sizes[id(node)] = total
        return total

    size(root, "")


def _with_text_keys(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {_key(key): _with_text_keys(each, path) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(each, path) for each in value]
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{path} holds a NUL character in a value.")
    if isinstance(value, str) and not value.isascii():  # "\\ud83d\\ude00", as JSON has it, is one character
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key).replace("\0", "")
