"""The hierarchy of errors: as its docstring draws it, picklable, with a status for each."""

import copy
import pickle
import re

import pytest

import miner.errors
from miner.core.wire import LLMResponse
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    CallTimeoutError,
    ConfigError,
    ContextLengthError,
    EngineCrashedError,
    EngineStartError,
    EngineStoppedError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    OutputValidationError,
    RequestError,
    ServiceClosedError,
    StreamInterruptedError,
    UnsupportedFeatureError,
    _restore,
)

PLACE = {"backend": "vllm", "base_url": "http://h/v1", "status": 500, "retryable": True, "retry_after": 1.5}

EXAMPLES = [
    MinerError("It failed.", hint="Try again."),
    ConfigError("A=1: must be 2.", hint="See the list."),
    RequestError("No.", param="stop"),
    InvalidRequestError("No.", param="top_p", hint="Use 1."),
    UnsupportedFeatureError("No.", param="seed"),
    ModelNotFoundError("No.", model="x", available=("a", "b"), hint="Get it."),
    ContextLengthError("Too long.", prompt_tokens=9, context_length=8, hint="Shorten it."),
    BackendError("Broken.", hint="See its log.", **PLACE),
    BackendUnavailableError("Away.", **PLACE),
    ServiceClosedError("Closed.", **PLACE),
    BackendTimeoutError("Slow.", **PLACE),
    CallTimeoutError("Too slow.", **PLACE),
    BackendOverloadedError("Full.", **PLACE),
    AuthenticationError("Refused.", **PLACE),
    BackendProtocolError("Garbage.", **PLACE),
    OutputValidationError("Wrong.", response=LLMResponse(content="x"), **PLACE),
    StreamInterruptedError("Gone.", **PLACE),
    EngineStartError("Not ready.", log_tail=["a", "b"], **PLACE),
    EngineStoppedError("Stopped.", **PLACE),
    EngineCrashedError("Dead.", exit_status=-9, log_tail=["a"], **PLACE),
]


def classes() -> dict[str, type[MinerError]]:
    return {name: getattr(miner.errors, name) for name in miner.errors.__all__}


def test_there_is_an_example_of_each_class():
    assert {type(error) for error in EXAMPLES} == set(classes().values())


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_everything(error, protocol):
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.deepcopy(error), copy.copy(error)):
        assert type(twin) is type(error)
        assert twin.__dict__ == error.__dict__
        assert str(twin) == str(error)
        assert twin.args == error.args


def test_pickling_keeps_what_was_set_later():
    error = StreamInterruptedError("Gone.")
    error.partial = LLMResponse(content="so far")
    assert pickle.loads(pickle.dumps(error)).partial == error.partial


def test_a_subclass_of_a_third_party_is_pickled_whatever_its_arguments():
    twin = pickle.loads(pickle.dumps(_TheirError(7)))
    assert (type(twin), twin.number, str(twin), twin.backend) == (_TheirError, 7, "Number 7. Call us.", "theirs")


class _TheirError(BackendError):
    def __init__(self, number: int) -> None:
        super().__init__(f"Number {number}.", hint="Call us.", backend="theirs")
        self.number = number


def drawn() -> dict[str, tuple[str, int | None]]:
    """Class -> class above it and HTTP status, out of the tree in the docstring."""
    above: list[tuple[int, str]] = []
    tree: dict[str, tuple[str, int | None]] = {}
    for line in miner.errors.__doc__.splitlines():
        if found := re.match(r"( {4,})(\w+Error)\b\s*(\d{3})?", line):
            indent, name = len(found[1]), found[2]
            while above and above[-1][0] >= indent:
                above.pop()
            tree[name] = (above[-1][1] if above else "Exception", int(found[3]) if found[3] else None)
            above.append((indent, name))
    return tree


def test_the_tree_in_the_docstring_is_that_of_the_classes():
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: cls.__mro__[1].__name__ for name, cls in classes().items()
    }


def test_the_statuses_in_the_docstring_are_those_of_the_classes():
    stated = {name: status for name, (_, status) in drawn().items() if status is not None}
    assert stated == {name: cls.http_status for name, cls in classes().items() if name in stated}
    abstract = {"MinerError", "ConfigError", "RequestError", "BackendError"}
    assert classes().keys() - stated.keys() == abstract


def test_the_statuses_are_those_of_the_design():
    assert {cls: cls.http_status for cls in classes().values()} == {
        MinerError: 500, ConfigError: 500, RequestError: 400, InvalidRequestError: 400, UnsupportedFeatureError: 400,
        ModelNotFoundError: 404, ContextLengthError: 400, BackendError: 502, BackendUnavailableError: 503,
        BackendTimeoutError: 504, BackendOverloadedError: 429, AuthenticationError: 502, BackendProtocolError: 502,
        CallTimeoutError: 504, OutputValidationError: 422, StreamInterruptedError: 502, EngineStartError: 503,
        EngineStoppedError: 503, EngineCrashedError: 503,
        ServiceClosedError: 503,
    }  # fmt: skip


def test_all_is_sorted_and_complete():
    own = [value for value in vars(miner.errors).values() if getattr(value, "__module__", "") == "miner.errors"]
    defined = [value.__name__ for value in own if isinstance(value, type)]
    assert list(miner.errors.__all__) == sorted(defined)


def test_codes_are_short_names():
    for cls in classes().values():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.code)


def test_the_text_is_the_message_and_the_hint():
    assert str(BackendUnavailableError("Away.", hint="Start it.")) == "Away. Start it."
    assert str(BackendUnavailableError("Away.")) == "Away."


def test_what_may_succeed_later():
    retryable = {cls for cls in classes().values() if issubclass(cls, BackendError) and cls("x").retryable}
    assert retryable == {BackendUnavailableError, BackendOverloadedError, EngineCrashedError, EngineStoppedError}
    assert BackendUnavailableError("x", retryable=False).retryable is False


def test_an_error_of_an_older_version_is_still_readable():
    """Its state, pickled by that version, has no operator_hint."""
    state = {"message": "It failed.", "hint": "Try again."}
    assert str(_restore(BackendError, state)) == "It failed. Try again."
