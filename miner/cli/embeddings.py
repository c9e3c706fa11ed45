"""Vectors of `miner embed`: compared, and written to files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miner.cli.parser import UsageError

_ENDINGS = (".npy", ".json", ".jsonl")
_MAGIC = b"\x93NUMPY\x01\x00"
"""Of version 1.0 of NumPy's format, whose header is padded so that the data begins at a multiple of 64 bytes."""


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """The cosine similarity of two vectors, from -1 to 1; 0 where one of them is zero."""
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(one * other for one, other in zip(first, second, strict=True)) / lengths if lengths else 0.0


def check_output(name: str) -> None:
    """Check the file to write before anything is computed.

    Raises:
        UsageError: its ending is none that is known, or its directory does not exist.
    """
    path = Path(name)
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"--output {name!r}: must end in {', '.join(_ENDINGS)}.")
    if path.is_dir() or not path.expanduser().absolute().parent.is_dir():
        raise UsageError(f"--output {name!r}: there is no directory {str(path.expanduser().absolute().parent)!r}.")


def write_vectors(name: str, described: dict[str, Any]) -> str:
    """Write what `miner embed --json` prints, or the vectors of it; return the size of the file.

    Raises:
        UsageError: it cannot be written.
    """
    from miner.core.models.memory.verdict import readable

    path, rows = Path(name).expanduser(), described["embeddings"]
    match path.suffix.lower():
        case ".npy":
            content = npy([row["embedding"] for row in rows])
        case ".jsonl":
            content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        case _:
            content = f"{json.dumps(described, indent=2)}\n".encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--output {name!r} cannot be written: {error.strerror}.") from None
    return readable(len(content))


def npy(rows: Sequence[Sequence[float]]) -> bytes:
    """The rows as a two-dimensional array of little-endian 32-bit floats, in NumPy's format."""
    shape = (len(rows), len(rows[0]))
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(_MAGIC) + 2 + len(header) + 1) % 64) + b"\n"
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    return _MAGIC + struct.pack("<H", len(header)) + header + data
