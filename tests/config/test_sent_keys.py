"""Keys as files have them."""

from __future__ import annotations

import pytest

from miner.config.config import MinerConfig
from miner.config.secrets import secret_text
from miner.errors import ConfigError


@pytest.mark.parametrize("name", ["vllm_api_key", "openai_api_key", "llamacpp_api_key", "hf_token"])
def test_a_key_has_no_line_ends_around_it_and_none_inside(name):
    assert secret_text(getattr(MinerConfig(**{name: " k-1\r\n"}), name)) == "k-1"
    with pytest.raises(ConfigError, match="control character") as caught:
        MinerConfig(**{name: "hidden\r\nkey"})
    assert name.upper() in caught.value.message
    assert "hidden" not in caught.value.message
