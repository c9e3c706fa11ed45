"""A hub on loopback: lists repositories, redirects to where the files are, serves ranges, and fails as told."""

import hashlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What it holds, how it misbehaves, and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lists_hashes: bool = True
    wrong_hash: bool = False
    token: str | None = None
    gated: bool = False
    """The list is open, the files are not."""
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """Each download takes one off: bytes after which the connection is reset."""
    failures: list[int] = field(default_factory=list)
    """Each download takes one off: a status to answer instead."""
    resets: bool = False
    """A cut is a reset, not an end."""
    more: bytes = b""
    """Comes behind each file."""
    pause: float = 0.0
    """Seconds between two pieces of 16 KiB."""
    silent: threading.Event | None = None
    """Set: no download gets an answer before this is."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    """Bytes of files that went out."""
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def downloads(self) -> list[dict[str, str]]:
        """Headers of the requests for the files themselves."""
        return [headers for method, path, headers in self.requests if path.startswith("/cdn/") and method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self):
        url = urlsplit(self.path)  # a proxy gets the whole address
        self.hub.requests.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        path = unquote(url.path)
        if path.startswith("/cdn/"):
            return self.file(path)
        given = self.headers.get("Authorization")
        listing = path.startswith("/api/models/")
        if self.hub.token and given != f"Bearer {self.hub.token}" and not (listing and self.hub.gated):
            if self.hub.gated:
                return self.refuse(403 if given else 401, "GatedRepo", "Access is restricted")
            return self.refuse(401, "", "Invalid credentials in Authorization header" if given else "Who are you?")
        if path == "/api/models":
            wanted = parse_qs(url.query)
            names = [
                {"id": name}
                for name in self.hub.repositories
                if wanted.get("search", [""])[0].lower() in name.lower()
                and name.startswith(wanted.get("author", [""])[0])
            ]
            return self.answer(json.dumps(names).encode())
        if listing:
            return self.listing(path.removeprefix("/api/models/"))
        return self.redirect(path)

    do_HEAD = do_GET

    def listing(self, name):
        if name == "old/name":
            return self.answer(b"", 307, {"Location": "/api/models/new/name?blobs=true"})
        if name not in self.hub.repositories:
            return self.refuse(401 if name.startswith("private/") else 404, "RepoNotFound", "Repository not found")
        siblings = []
        for path, content in self.hub.repositories[name].items():
            item = {"rfilename": path}
            if self.hub.lists_hashes:
                lfs = {"size": len(content), "sha256": self.digest(content), "pointerSize": 134}
                item |= {"size": len(content), "lfs": lfs}
            siblings.append(item)
        return self.answer(json.dumps({"id": name, "sha": REVISION, "siblings": siblings}).encode())

    def redirect(self, path):
        owner, repo, _, revision, *rest = path.strip("/").split("/")
        content = self.hub.repositories.get(f"{owner}/{repo}", {}).get("/".join(rest))
        if content is None or revision != REVISION:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        headers = {
            # Another name of the same machine, as a content network has another one.
            "Location": f"http://localhost:{self.hub.port}/cdn/{owner}/{repo}/{quote('/'.join(rest))}",
            "X-Linked-Etag": f'"{self.digest(content)}"',
            "X-Linked-Size": str(len(content)),
            "X-Repo-Commit": REVISION,
        }
        return self.answer(b"", 302, headers)

    def file(self, path):
        if self.hub.silent is not None:
            self.hub.silent.wait(60)
        if self.hub.failures:
            return self.refuse(self.hub.failures.pop(0), "", "as told", {"Retry-After": "7"})
        owner, repo, *rest = path.removeprefix("/cdn/").split("/")
        content = self.hub.repositories[f"{owner}/{repo}"]["/".join(rest)] + self.hub.more
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")) if self.hub.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.hub.cuts.pop(0) if self.hub.cuts else len(content)
        while start < min(end, len(content)):
            piece = content[start : min(start + 16384, end)]
            try:
                self.wfile.write(piece)
            except OSError:
                break
            start += len(piece)
            self.hub.sent += len(piece)
            if self.hub.pause:
                time.sleep(self.hub.pause)
        self.close_connection = start < len(content)
        if self.close_connection and self.hub.resets:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        return None

    def digest(self, content):
        return hashlib.sha256(content + (b"!" if self.hub.wrong_hash else b"")).hexdigest()

    def refuse(self, status, code, message, more=None):
        body = json.dumps({"error": message}).encode()
        self.answer(body, status, {"X-Error-Code": code, "X-Error-Message": message} | (more or {}))

    def answer(self, body, status=200, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that was killed


def start(hub: FakeHub) -> ThreadingHTTPServer:
    """Serve the hub until `shutdown` and `server_close`."""
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
