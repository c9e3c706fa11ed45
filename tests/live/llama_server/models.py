"""The models of llama.cpp's server tests, which would be downloaded: here the demo model stands for all."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from tests.servers.llama_runner import demo_model

_FIM_SETTINGS = (
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_mid_token_id",
)
_FIM_TOKENS = (4, 5, 6)
"""Tokens of the demo model that no text has: `<reponame>` and its neighbours."""


def model_for(options: argparse.Namespace) -> Path:
    """The file: the demo model, with tokens for fill-in-the-middle where the test's model has them."""
    wanted = " ".join(filter(None, (options.hf_repo, options.hf_file, options.model_url)))
    return _with_fim_tokens() if "infill" in wanted else demo_model()


def _with_fim_tokens() -> Path:
    import gguf

    directory = Path(os.environ.get("LLAMA_TESTS_TEMP") or tempfile.gettempdir())
    path = directory / "demo-infill.gguf"
    if path.exists():
        return path
    reader = gguf.GGUFReader(demo_model())
    writer = gguf.GGUFWriter(str(path) + ".part", str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(
            field.name, field.contents(), kind, sub_type=field.types[-1] if len(field.types) > 1 else None
        )
    for setting, token in zip(_FIM_SETTINGS, _FIM_TOKENS, strict=True):
        writer.add_uint32(setting, token)
    for tensor in reader.tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()
    shutil.move(str(path) + ".part", path)
    return path
