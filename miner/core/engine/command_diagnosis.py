"""Why a user's own server did not start or crashed, from its log and the exit status."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from miner.core.engine.diagnosis import FROM_OUTSIDE, LAST_LINE, Reason, compiled, explain_by
from miner.core.engine.environment import withheld

_OURS = "miner: "
_EXCEPTION = re.compile(r"(?:^|\s)((?:Value error, |(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception): )[^\[\n]{3,300})")
_NO_CAUSE = "Engine core initialization failed"
"""What a vLLM raises after its engine has failed."""
_SMALLER = (
    "Let it take less, by its own options (vLLM: --gpu-memory-utilization, --max-model-len), or use a smaller model."
)

_RULES = compiled(
    (r"miner-child: (port \d+ is in use by another process)", "{0}",
     "Stop that process, choose another `port`, or leave `port` out and write ${PORT} into the command."),
    (r"miner-child: (\S+ cannot be run: Exec format error)", "{0}",
     "A script needs a first line such as #!/bin/sh; a program must be for this processor."),
    (r"miner-child: (\S+) cannot be run: No such file or directory",
     "{0} cannot be run: the interpreter of this script does not exist", "Correct the script's first line."),
    (r"miner-child: ([^\n]*)", "{0}", None),
    (r"Free memory on device[^\n]*\((\S+ ?GiB[^\n)]*)\)[^\n]*less than desired[^\n]*",
     "there is not enough free GPU memory: {0}", _SMALLER),
    (r"(CUDA out of memory|CUDA error: out of memory|HIP out of memory|torch\.(?:cuda\.)?OutOfMemoryError)",
     "there is not enough GPU memory", _SMALLER),
    (r"No available memory for the cache blocks", "no GPU memory is left for its KV cache",
     "Raise --gpu-memory-utilization, or lower --max-model-len."),
    (r"(?:max seq len|max_model_len)[^\n]*larger than the maximum number of tokens[^\n]*",
     "its KV cache is too small for the context length", "Lower --max-model-len, or raise --gpu-memory-utilization."),
    (r"bad_alloc|Cannot allocate memory|MemoryError|DefaultCPUAllocator: (?:can't|not enough)",
     "there is not enough memory", _SMALLER),
    (r"(?:No CUDA GPUs are available|no NVIDIA driver|Failed to infer device type)",
     "it finds no GPU", "Check the driver, and CUDA_VISIBLE_DEVICES in `env`."),
    (r"Sleep mode is not supported on current platform", "it has no sleep mode on this platform",
     "Remove --enable-sleep-mode from `command`, and `sleep`: only GPUs have it."),
    (r"(?:[Aa]ddress already in use|EADDRINUSE|address in use|error while attempting to bind)",
     "its port is in use by another process",
     "Stop that process, or leave `port` out and write ${PORT} into the command."),
    (r"(?:ModuleNotFoundError: )?No module named '?([\w.]+)'?", "the Python module {0} is not installed",
     "Name the python, or the program, of the environment that has it by its full path in `command`."),
    (r"(?:GatedRepoError|Access to model[^\n]*is restricted|401 Client Error)[^\n]*",
     "the model hub refused access", None),
    (r"(?:error: )?unrecognized arguments: ([^\n]*)|error: (?:invalid|unknown) (?:argument|option):? ([^\n]*)",
     "it does not know the option {0}{1}", "Correct `command`."),
    (r"error: argument ([^\n]*)", "it does not take the option {0}", "Correct `command`."),
    (r"(?i:not a (?:tty|terminal)|inappropriate ioctl for device)", "it needs a terminal",
     "Give it the option that runs it without one."),
    (r"error while loading shared libraries: ([^\n]*)", "its libraries are missing: {0}",
     "Install them, or set LD_LIBRARY_PATH in `env`."),
    (r"(?:Repo id must be|is not a local folder and is not a valid model identifier|is not a valid model identifier)",
     "it does not find the model", "Check the model's name or path in `command`."),
    (r"failed to (?:open GGUF file|load model),? '?([^'\n]*)'?", "it cannot load the model {0}",
     "Check the model's path in `command`; relative ones start at `directory`."),
    (r"[Pp]ermission denied:? ?'?([^'\n]*)'?", "it lacks a permission: {0}", "Check the owner of what it uses."),
)  # fmt: skip

_SIGNALS: dict[int, Reason] = {
    signal.SIGKILL: Reason("most likely the kernel killed it because memory ran out, or somebody did", _SMALLER),
    signal.SIGILL: Reason("this CPU lacks instructions that it uses", "Use a build for this processor."),
    signal.SIGSEGV: Reason("segmentation fault"),
    signal.SIGABRT: Reason("it aborted itself"),
    signal.SIGBUS: Reason("a file that it uses was truncated, or shared memory is full", "Enlarge /dev/shm."),
    **dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), FROM_OUTSIDE),
}

_BACKGROUND = (
    "It must run in the foreground: if it puts itself into the background, give it the option that prevents it."
)


def explain_command(lines: Sequence[str], status: int | None, backend: str, *, served: bool) -> Reason:
    """Return the reason that the log gives, or the signal if that says more, else the last line."""
    if status == 0:
        if served:
            return Reason("it exited by itself", "See the log lines; the next request starts it again.")
        return Reason("it exited before it was ready", _BACKGROUND)
    own = [line for line in lines if not line.startswith(_OURS)]
    reason = explain_by(_RULES, _SIGNALS, own, status)
    if reason.text.startswith(LAST_LINE) and (raised := _raised(own)) is not None:
        return Reason(raised)
    if served and reason.text.startswith(LAST_LINE):
        # Clients read the reason, and servers log the requests of others.
        return Reason("its log gives no known reason", f"{reason.text[:1].upper()}{reason.text[1:]}.")
    if "hub refused" in reason.text:
        return Reason(reason.text, _token_hint(backend))
    return reason


def _raised(lines: Sequence[str]) -> str | None:
    """The last exception of Python in the log that says something of its own."""
    found = [match for line in lines for match in _EXCEPTION.findall(line) if _NO_CAUSE not in match]
    return found[-1].rstrip(".") if found else None


def stall_of(lines: Sequence[str], backend: str) -> Reason | None:
    """What our ready check logged last, and what that calls for."""
    last = next((line for line in reversed(lines) if line.startswith(_OURS)), None)
    if last is None:
        return None
    if "listens on port" in last:
        hint = f"Give it ${{PORT}} as its port, or set `port` of [backends.{backend}]."
    else:
        hint = f"See the log lines; `ready` of [backends.{backend}] names a path that returns 200 once it can serve."
    return Reason(last.removeprefix(_OURS), hint)


def _token_hint(backend: str) -> str:
    names = [name for name in withheld() if name.startswith(("HF_", "HUGGINGFACE"))] or ["HF_TOKEN"]
    pairs = ", ".join(f'{name} = "${{{name}}}"' for name in names)
    return f"A command gets no secrets by itself: write env = {{ {pairs} }} into [backends.{backend}]."
