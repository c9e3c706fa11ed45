#!/usr/bin/env python3
"""Stands in for a `llama-server` binary that hangs: from the point that `$GGML_TEST_HANGS_AT` names it is silent.

health: it listens and never says that it is well; props: it is well, and then silent; slots: it gives its properties
and never a token. SIGTERM does not end it.
"""

import http.server
import json
import os
import signal
import sys
import threading

HANGS_AT = os.environ.get("GGML_TEST_HANGS_AT", "slots")


class Handler(http.server.BaseHTTPRequestHandler):
    """GETs are answered up to the point, POSTs never."""

    def do_GET(self):
        if self.path.endswith(HANGS_AT):
            threading.Event().wait()
        body = json.dumps({"total_slots": 2, "default_generation_settings": {"n_ctx": 512}, "status": "ok"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        threading.Event().wait()

    def log_message(self, *_):
        pass


def main():
    if "--help" in sys.argv:
        print("usage: llama-server [options]\n--model FNAME")
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
