"""A server as a user's command: speaks a little of OpenAI's API, and misbehaves when it is told to. Run as a script.

Options: --port N; --load SECONDS of 503 at /health; --sleep-routes as vLLM has them, with --memory BYTES that sleep
frees; --name of its model; and one --way of the functions below.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OPTIONS = argparse.ArgumentParser()
OPTIONS.add_argument("--port", type=int, default=0)
OPTIONS.add_argument("--load", type=float, default=0.0)
OPTIONS.add_argument("--name", default="stub")
OPTIONS.add_argument("--way", default="well")
OPTIONS.add_argument("--note")
OPTIONS.add_argument("--memory", type=int, default=0)
OPTIONS.add_argument("--enable-sleep-mode", action="store_true")
OPTIONS.add_argument("--wake-fails", action="store_true")
OPTIONS.add_argument("--no-health", action="store_true")
OPTIONS.add_argument("--access-log", nargs="?", const="common")

STARTED = time.monotonic()
STATE = {"asleep": 0, "weights": True, "calls": [], "requests": 0}
ACCESS_LOGS = {
    "json": ['{"method": "GET", "path": "%(path)s", "status": %(code)d, "port": %(port)d, "request": %(n)d}\n'],
    "logfmt": ["n=%(n)d method=GET uri=%(path)s status=%(code)d\n"],
    "path-first": ["%(path)s GET %(code)d\n"],
    "two-lines": ["connection accepted from 127.0.0.1:%(port)d\nGET %(path)s %(code)d\n"],
    "two-pieces": ["127.0.0.1:%(port)d asks for ", "%(path)s: %(code)d\n"],
}
"""Lines, in the pieces in which they are written, by the name of `--access-log`."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    given: argparse.Namespace

    def log_message(self, *arguments):
        """Log nothing, unless it is told to."""
        if self.given.access_log == "common":
            super().log_message(*arguments)

    def log_request(self, code="-", size="-"):
        """Log a request in one of the ways that servers have."""
        form = self.given.access_log
        if form in ACCESS_LOGS:
            STATE["requests"] += 1
            fields = {"code": code, "path": self.path, "port": self.client_address[1], "n": STATE["requests"]}
            for number, text in enumerate(ACCESS_LOGS[form]):
                time.sleep(0.05 if number else 0)
                os.write(2, (text % fields).encode())
        else:
            super().log_request(code, size)

    def send(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = urlsplit(self.path).path
        if self.given.access_log == "traceback":
            raise RuntimeError("not yet")
        if path == "/health" and not self.given.no_health:
            self.send(200 if time.monotonic() >= STARTED + self.given.load else 503, {})
        elif path == "/v1/models":
            self.send(200, {"object": "list", "data": [{"id": self.given.name, "object": "model"}]})
        elif path == "/environment":
            self.send(200, {**os.environ, "directory": os.getcwd(), "blocked": sorted(signal.pthread_sigmask(0, []))})
        elif path == "/calls":
            self.send(200, STATE["calls"])
        elif path == "/endless":
            self.endless()
        elif path == "/is_sleeping" and self.sleeps:
            self.send(200, {"is_sleeping": bool(STATE["asleep"])})
        else:
            self.send(404, {"error": {"message": f"no route {path}"}})

    @property
    def sleeps(self):
        return self.given.enable_sleep_mode and os.environ.get("VLLM_SERVER_DEV_MODE") == "1"

    def do_POST(self):
        parts = urlsplit(self.path)
        query, body = parse_qs(parts.query), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.sleeps and parts.path in ("/sleep", "/wake_up", "/collective_rpc"):
            STATE["calls"].append(self.path)
            self.sleep_route(parts.path, query, body)
        elif parts.path == "/v1/chat/completions":
            self.chat(json.loads(body))
        elif parts.path == "/escape":
            self.send(200, escaped())
        else:
            self.send(404, {"error": {"message": f"no route {parts.path}"}})

    def sleep_route(self, path, query, body):
        if path == "/sleep":
            STATE["asleep"] = int(query["level"][0])
            STATE["weights"] = STATE["asleep"] < 2
        elif path == "/collective_rpc":
            assert json.loads(body)["method"] == "reload_weights"
            STATE["weights"] = True
        elif self.given.wake_fails:
            self.send(500, {"error": {"message": "CUDA out of memory"}})
            return
        elif "tags" not in query or "kv_cache" in query["tags"]:
            STATE["asleep"] = 0
        self.send(200, {})

    def chat(self, body):
        if STATE["asleep"] or not STATE["weights"]:
            self.send(500, {"error": {"message": "it sleeps"}})
            return
        words = [f"{self.given.name} "] * min(int(body.get("max_tokens") or 3), 1000)
        reason = {"index": 0, "delta": {}, "finish_reason": "stop"}
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
        usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": len(words) + 1}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.send(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        deltas = [{"index": 0, "delta": {"role": "assistant", "content": word}} for word in words]
        for choices in ([each] for each in (*deltas, reason)):
            self.event({**head, "choices": choices})
            time.sleep(0.02)
        self.event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def endless(self):
        """Status 200, and a body that never ends."""
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b": ping\n")
                time.sleep(0.05)
        except OSError:
            self.close_connection = True

    def event(self, chunk):
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()


def escaped():
    """Start a process whose parent exits, in a session of its own; return its pid."""
    code = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    return int(child.stdout.readline())


def serve(given, port=None):
    """Serve until SIGTERM or SIGINT."""
    handler = type("Bound", (Handler,), {"given": given})
    server = ThreadingHTTPServer(("127.0.0.1", given.port if port is None else port), handler)
    server.daemon_threads = True
    held = bytearray(os.urandom(1)) * given.memory

    def stop(number, _frame):
        if given.note:
            with open(given.note, "a") as file:
                file.write(f"stopped by {signal.Signals(number).name}\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever()
    del held


def well(given):
    """Behave."""
    serve(given)


def forks(given):
    """Leave a child of its own session that ignores signals, and its orphan."""
    code = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "if os.fork(): os._exit(0)\nos.setsid()\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code, given.note], start_new_session=True)
    while not os.path.exists(given.note) or not os.path.getsize(given.note):
        time.sleep(0.01)
    given.note = None
    serve(given)


def daemonizes(given):
    """Go into the background."""
    if os.fork():
        os._exit(0)
    os.setsid()
    with open(given.note, "w") as file:
        file.write(str(os.getpid()))
    given.note = None
    serve(given)


def prints_endlessly(given):
    """Print, and never listen."""
    while True:
        os.write(1, b"x" * 200 + b"\n")
        time.sleep(0.001)


def prints_and_serves(given):
    """Serve, and print for ever."""
    import threading

    threading.Thread(target=prints_endlessly, args=(given,), daemon=True).start()
    serve(given)


def ignores_signals(given):
    """Serve, deaf."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handler = type("Bound", (Handler,), {"given": given})
    ThreadingHTTPServer(("127.0.0.1", given.port), handler).serve_forever()


def prints_its_load(given):
    """Serve, and print for `--load` seconds a line that names no end, as some downloaders do."""
    import threading

    def work():
        for number in range(int(given.load / 0.7)):
            os.write(2, f"12:00:{number:02} downloader: {number}{os.getpid()} bytes\n".encode())
            time.sleep(0.7)

    threading.Thread(target=work, daemon=True).start()
    serve(given)


def begins_a_line(given):
    """Serve after the begin of a line, as of one with dots."""
    os.write(2, b"loading ..")
    serve(given)


def other_port(given):
    """Listen elsewhere."""
    serve(given, 0)


def exits(given):
    """Exit at once."""
    sys.exit(0)


def fails(given):
    """Fail as a vLLM does, with the reason far above the end."""
    sys.stderr.write("ValueError: Free memory on device cuda:0 (3.5/79.2 GiB) on startup is less than desired GPU\n")
    for number in range(150):
        sys.stderr.write(f"(APIServer pid=1)   File 'x.py', line {number}, in wait_for_engine_startup\n")
    sys.stderr.write("RuntimeError: Engine core initialization failed. See root cause above.\n")
    sys.exit(1)


def wants_terminal(given):
    """Need a terminal."""
    if not sys.stdin.isatty():
        sys.exit("the input device is not a TTY")


def reads(given):
    """Serve what comes on standard input."""
    sys.exit(f"standard input had {len(sys.stdin.read())} characters")


def dies(given):
    """Crash a while after it was ready."""
    import threading

    threading.Timer(given.load + 0.3, lambda: os.kill(os.getpid(), signal.SIGSEGV)).start()
    serve(given)


if __name__ == "__main__":
    arguments = OPTIONS.parse_args()
    globals()[arguments.way](arguments)
