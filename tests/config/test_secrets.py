"""The text of a secret setting, whoever holds it."""

import pytest
from pydantic import SecretStr

from miner.config.file.problems import hidden
from miner.config.secrets import secret_text


@pytest.mark.parametrize("secret", [SecretStr("s3cret"), "s3cret"])
def test_its_text(secret):
    assert secret_text(secret) == "s3cret"


def test_one_that_is_not_set():
    assert secret_text(None) is None
    assert secret_text(SecretStr("")) == ""


@pytest.mark.parametrize(
    "name",
    ["key", "api_key", "apiKey", "X-API-Key", "APIKey", "HF_TOKEN", "authToken", "db.password", "Authorization", "salt",
     "cookie", "AWS_SECRET_ACCESS_KEY", "api_keys", "passphrase", "client secret", "GITHUB_TOKEN_PROD",
     "api_key_token_ids"],
)  # fmt: skip
def test_values_of_these_names_are_hidden(name):
    assert hidden({"a": [{name: "sk-1"}]}, ()) == {"a": [{name: "***"}]}
    assert hidden({name: {"user": "u", "more": ["x"]}}, ()) == {name: {"user": "***", "more": "***"}}
    assert hidden({name: True}, ()) == {name: True}


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "min_tokens", "max_completion_tokens", "prompt_tokens", "token_ids", "stop_token_ids", "top_k",
     "allowed_token_ids", "logprob_token_ids", "return_token_ids", "return_tokens_as_token_ids", "skip_special_tokens",
     "truncate_prompt_tokens", "thinking_token_budget", "thinking_budget_tokens", "eos_token_id", "bos_token",
     "timings_per_token", "return_token_offsets", "token_logprobs", "long_prefill_token_threshold", "num_keep",
     "n_keep",
     "keep_alive", "num_predict", "logit_bias", "ignore_eos", "reasoning_effort", "chat_template_kwargs", "tokenizer",
     "pass_config", "key_file", "keys", "API_KEYS_FILE", "author"],
)  # fmt: skip
def test_fields_and_flags_of_engines_are_shown(name):
    """Those of vLLM, llama.cpp and Ollama."""
    value = {name: "one", "in": [{name: 1}]}
    assert hidden(value, ()) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("API_KEY=sk-1 X=1", "API_KEY=*** X=1"),
        ("API_KEY='sk 1' X=1", "API_KEY=*** X=1"),
        ('--api-key "sk 1" -v', "--api-key *** -v"),
        ("Authorization: Bearer sk-1", "Authorization: Bearer ***"),
        ("API_KEY=${KEY}", "API_KEY=${KEY}"),
        ('API_KEY="${KEY}"', 'API_KEY="${KEY}"'),
        ("max_tokens=5", "max_tokens=5"),
    ],
)
def test_secrets_that_a_text_assigns_are_hidden(text, shown):
    assert hidden(text, ()) == shown
