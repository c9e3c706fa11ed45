"""The header of a GGUF file, read without loading or trusting the file.

The file may come from anywhere. Every count and length in it is checked against the file's size and a fixed maximum
before it is used: a hostile file costs at most about a second and some megabytes and ends in `GGUFError`. Sizes are
bytes, lengths are tokens.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from miner.core.models.gguf.fim import FimTokens, fim_tokens
from miner.core.models.gguf.ggml_types import FILE_TYPES, TENSOR_TYPES, tensor_bytes
from miner.core.models.gguf.values import GGUFError, HeaderReader, Skipped, Value

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# Maxima, each well above what published models have.
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_KEY_BYTES = 1 << 10
MAX_NAME_BYTES = 1 << 8
MAX_DIMENSIONS = 4
MAX_EXTENT = 1 << 40
MAX_LAYERS = 1 << 12
MAX_ALIGNMENT = 1 << 20
MAX_VOCABULARY_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header announces it."""

    name: str
    shape: tuple[int, ...]
    """Extents, the fastest first."""
    type: str
    size: int
    """Bytes of its data."""

    @property
    def elements(self) -> int:
        """Number of values."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The header of a GGUF file; None for what it does not have."""

    path: Path
    version: int
    architecture: str
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...] = field(repr=False)
    file_size: int
    """Bytes of the file; of all its files for a split model."""
    fim_tokens: FimTokens | None = None
    """Its tokens for fill-in-the-middle; None if it cannot do that."""

    def text(self, key: str) -> str | None:
        """The value of `key` if it is a text that is not empty."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """The value of `key` if it is an integer of zero or more; `{arch}` stands for the architecture."""
        value = self.metadata.get(key.replace("{arch}", self.architecture))
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def per_layer(self, key: str) -> tuple[int, ...] | None:
        """The value of `key` for each layer, whether the file has one number for all or an array."""
        layers = self.block_count or 0
        value = self.metadata.get(key.replace("{arch}", self.architecture))
        if isinstance(value, list):
            return tuple(int(item) if isinstance(item, int | float) else 0 for item in value[:layers])
        one = self.number(key)
        return None if one is None else (one,) * layers

    @property
    def name(self) -> str | None:
        """The name that the model's makers gave it."""
        return self.text("general.name")

    @property
    def quantization(self) -> str | None:
        """The quantization, such as Q4_K_M: by the file type, else the type of most weights."""
        code = self.number("general.file_type")
        if code in FILE_TYPES:
            return FILE_TYPES[code]
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
        return max(sizes, key=lambda kind: sizes[kind]) if sizes else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was trained for."""
        return self.number("{arch}.context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of the model."""
        return self.number("{arch}.embedding_length")

    @property
    def block_count(self) -> int | None:
        """Layers."""
        return self.number("{arch}.block_count")

    @property
    def head_counts(self) -> tuple[int, ...] | None:
        """Attention heads of each layer."""
        return self.per_layer("{arch}.attention.head_count")

    @property
    def kv_head_counts(self) -> tuple[int, ...] | None:
        """Key and value heads of each layer; as many as attention heads where the file has no number."""
        return self.per_layer("{arch}.attention.head_count_kv") or self.head_counts

    @property
    def key_length(self) -> int | None:
        """Width of one key head."""
        return self._head_width("{arch}.attention.key_length")

    @property
    def value_length(self) -> int | None:
        """Width of one value head."""
        return self._head_width("{arch}.attention.value_length")

    @property
    def vocab_size(self) -> int | None:
        """Number of tokens in the vocabulary."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, Skipped):
            return tokens.length
        return len(tokens) if isinstance(tokens, list) else self.number("{arch}.vocab_size")

    @property
    def sliding_window(self) -> int | None:
        """Tokens that the layers with a sliding window look back; None without such layers."""
        return self.number("{arch}.attention.sliding_window") or None

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the default chat template."""
        return self.text("tokenizer.chat_template")

    @property
    def pooling_type(self) -> int | None:
        """How an embedding model joins its tokens: 0 none, 1 mean, 2 first (CLS), 3 last, 4 rank."""
        return self.number("{arch}.pooling_type")

    def _head_width(self, key: str) -> int | None:
        stated = self.number(key)
        if stated is not None:
            return stated
        heads = max(self.head_counts or (0,), default=0)
        return self.embedding_length // heads if heads and self.embedding_length else None


def read_header(path: str | os.PathLike[str], *, whole: bool = False) -> GGUFHeader:
    """Read one file's header, and check that the data that it announces is there.

    Args:
        whole: with long arrays, such as the vocabulary.

    Raises:
        GGUFError: the file is missing, unreadable, empty, not a GGUF, of another version, truncated or malformed.
    """
    where = Path(path)
    try:
        status = where.stat()
        if stat.S_ISDIR(status.st_mode):
            raise GGUFError(where, "this is a directory, not a GGUF file")
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError(where, "this is not a regular file")
        with where.open("rb") as file:
            header = _read(HeaderReader(file, where, status.st_size, whole=whole), where, status.st_size)
            return replace(header, fim_tokens=_fim_tokens(header, file))
    except FileNotFoundError as error:
        raise GGUFError(where, "there is no such file") from error
    except OSError as error:
        raise GGUFError(where, f"cannot be read: {error.strerror or error}") from error


def read_model(parts: Sequence[Path]) -> GGUFHeader:
    """Read the header of a model that may be split: the first file's, with the tensors of all.

    Raises:
        GGUFError: one of the files cannot be read, or there is not a single tensor.
    """
    headers = [read_header(part) for part in parts]
    first = headers[0]
    joined = replace(
        first,
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
        file_size=sum(header.file_size for header in headers),
    )
    if not joined.tensors:
        raise GGUFError(first.path, "the file has a header but no tensors: it is a vocabulary, not a model")
    return joined


def _read(reader: HeaderReader, path: Path, size: int) -> GGUFHeader:
    if size == 0:
        raise GGUFError(path, "the file is empty")
    if size < 24:
        raise GGUFError(path, f"the file is too short for a GGUF: {size} bytes")
    magic = reader.take(4)
    if magic != MAGIC:
        raise GGUFError(path, f"this is not a GGUF file: it begins with {magic!r} instead of {MAGIC!r}")
    version = reader.u32()
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        reason = "a big-endian GGUF" if swapped in VERSIONS else f"GGUF version {version}"
        raise GGUFError(path, f"this is {reason}; versions {VERSIONS[0]} and {VERSIONS[1]}, little-endian, can be read")
    tensor_count, key_count = reader.u64(), reader.u64()
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise GGUFError(path, f"the header claims {tensor_count} tensors and {key_count} settings; that is not a model")
    metadata = _metadata(reader, key_count)
    architecture = metadata.get("general.architecture")
    if "split.no" in metadata and metadata["split.no"] != 0:
        architecture = architecture or "split"  # only the first file of a split model carries the settings
    if not isinstance(architecture, str) or not architecture:
        raise GGUFError(path, "the header does not name an architecture (general.architecture)")
    tensors = _tensors(reader, tensor_count, metadata, size)
    header = GGUFHeader(
        path=path, version=version, architecture=architecture, metadata=metadata, tensors=tensors, file_size=size
    )
    if (header.block_count or 0) > MAX_LAYERS:
        raise GGUFError(path, f"the header claims {header.block_count} layers; at most {MAX_LAYERS} can be read")
    return header


def _fim_tokens(header: GGUFHeader, file: BinaryIO) -> FimTokens | None:
    tokens, vocabulary = header.metadata.get("tokenizer.ggml.tokens"), b""
    if isinstance(tokens, Skipped) and tokens.end - tokens.start <= MAX_VOCABULARY_BYTES:
        file.seek(tokens.start)
        vocabulary = file.read(tokens.end - tokens.start)
    return fim_tokens(header.number, vocabulary)


def _metadata(reader: HeaderReader, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = reader.string("the name of a setting", MAX_KEY_BYTES)
        if key in metadata:
            raise reader.fail(f"the setting {key!r} occurs twice")
        metadata[key] = reader.value(reader.u32(), key)
    return metadata


def _tensors(reader: HeaderReader, count: int, metadata: dict[str, Value], size: int) -> tuple[Tensor, ...]:
    found: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(count):
        name = reader.string("the name of a tensor", MAX_NAME_BYTES)
        dimensions = reader.u32()
        if dimensions > MAX_DIMENSIONS:
            raise reader.fail(f"tensor {name!r} claims {dimensions} dimensions; at most {MAX_DIMENSIONS} are possible")
        shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
        if any(extent > MAX_EXTENT for extent in shape):
            raise reader.fail(f"tensor {name!r} claims the impossible shape {shape}")
        found.append((name, shape, reader.u32(), reader.u64()))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise reader.fail(f"general.alignment is {alignment!r}; a power of two is needed")
    room = size - (-(-reader.position // alignment) * alignment)
    # An unknown type fills the space up to the next tensor.
    starts = sorted({offset for *_, offset in found} | {max(room, 0)})
    following = dict(itertools.pairwise(starts))
    tensors: list[Tensor] = []
    end = 0
    for name, shape, kind, offset in found:
        length = tensor_bytes(kind, shape)
        if length is None:
            length = max(following.get(offset, offset) - offset, 0)
        end = max(end, offset + length)
        label = TENSOR_TYPES[kind][0] if kind in TENSOR_TYPES else f"type {kind}"
        tensors.append(Tensor(name=name, shape=shape, type=label, size=length))
    if end > room:
        raise reader.fail(f"the file is truncated: it has {size} bytes, and its tensors need {size - room + end}")
    return tuple(tensors)
