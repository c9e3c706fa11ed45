"""The text of a secret setting, whoever holds it."""

import pytest
from pydantic import SecretStr

from miner.config.secrets import secret_text


@pytest.mark.parametrize("secret", [SecretStr("s3cret"), "s3cret"])
def test_its_text(secret):
    assert secret_text(secret) == "s3cret"


def test_one_that_is_not_set():
    assert secret_text(None) is None
    assert secret_text(SecretStr("")) == ""
