"""A child that misbehaves in one named way. Run as a script; speaks the ready line of the real child."""

import json
import os
import signal
import sys
import time


def ready():
    print(json.dumps({"ready": True, "address": "http://127.0.0.1:9"}))
    sys.stdout.flush()


def forever():
    while True:
        time.sleep(60)


def well():
    """Behave, save that standard input is not watched."""
    ready()
    forever()


def ignores_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    ready()
    forever()


def forks():
    """Leave a grandchild that ignores SIGTERM and holds the pipes; then die."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[2], "w") as file:
            file.write(str(os.getpid()))
        forever()
    while not os.path.exists(sys.argv[2]) or not os.path.getsize(sys.argv[2]):
        time.sleep(0.01)
    ready()
    forever()


def hangs():
    print("about to hang", file=sys.stderr, flush=True)
    forever()


def hangs_and_ignores_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hangs()


def hangs_busily():
    """Compute forever: looks like progress."""
    while True:
        pass


def slow_but_alive():
    """Take several stall timeouts, but print all the while."""
    for number in range(12):
        print(f"loaded {number} of 12", file=sys.stderr, flush=True)
        time.sleep(0.25)
    ready()
    forever()


def prints_endlessly():
    """After the ready line, print without end on both pipes; every so often say how far it got."""
    ready()
    count = 0
    line = b"x" * 1023 + b"\n"
    while True:
        os.write(2, line * 32)
        os.write(1, line * 32)
        count += 64
        if count % 4096 == 0:
            with open(sys.argv[2] + ".new", "w") as file:
                file.write(str(count))
            os.replace(sys.argv[2] + ".new", sys.argv[2])


def never_ends_its_line():
    ready()
    for _ in range(1000):
        os.write(2, b"y" * 4096)
    os.write(2, b"the end")
    forever()


def junk_first():
    print("a banner of some library")
    print('{"not": "ours"}')
    print('{"ready": 1')
    print("[1, 2]")
    ready()
    forever()


def dies_at_once():
    print("0.00.001.000 E main: error: the moon is in the wrong phase", file=sys.stderr)
    sys.exit(7)


def dies_silently():
    sys.exit(0)


def ready_then_dies():
    ready()
    time.sleep(0.2)
    print("GGML_ASSERT(n_tokens > 0) failed", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGABRT)


def closes_its_pipes():
    """Become ready, close all pipes, and live on."""
    ready()
    for pipe in (0, 1, 2):
        os.close(pipe)
    forever()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
