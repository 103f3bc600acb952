"""A loopback server that cuts, stalls, lies about lengths and serves wrong bytes."""

from __future__ import annotations

import hashlib
import http.server
import random
import threading

from ttvr.clip.catalog import Entry

CONTENT = random.Random(0).randbytes(700_000)
ENTRY = Entry("toy", "toy.pt", 1, hashlib.sha256(CONTENT).hexdigest())


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `script` holds one behavior per request, the last one stays."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.release = ["good"], [], threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/toy.pt"

    def next(self):
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        what, asked = self.server.next(), self.headers.get("Range")
        self.server.requests.append(asked)
        getattr(self, what.replace(" ", "_"))(int(asked[6:-1]) if asked else 0)

    def answer(self, start, body=None, *, length=None, status=None, said=None):
        body = CONTENT[start:] if body is None else body
        self.send_response(status or (206 if start else 200))
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        if start:
            first = start if said is None else said
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def good(self, start):
        if start >= len(CONTENT):
            self.send_error(416)
        else:
            self.answer(start)

    def cut(self, start):
        rest = CONTENT[start:]
        self.answer(start, rest[:300_000], length=len(rest))

    def cut_at_once(self, start):
        self.answer(start, b"", length=len(CONTENT) - start)

    def stall(self, start):
        rest = CONTENT[start:]
        self.answer(start, rest[:100_000], length=len(rest))
        self.server.release.wait(20)

    def silent(self, _start):
        self.server.release.wait(20)

    def ignores_range(self, _start):
        self.answer(0)

    def cuts_and_ignores_range(self, _start):
        self.answer(0, CONTENT[:300_000], length=len(CONTENT))

    def other_range(self, start):
        self.answer(start, CONTENT[10:], said=10) if start else self.answer(0)

    def no_length(self, start):
        self.answer(start, length="none")

    def says_more(self, start):
        self.answer(start, length=len(CONTENT) - start + 50_000)

    def says_less(self, start):
        self.answer(start, length=len(CONTENT) - start - 50_000)

    def wrong_bytes(self, start):
        self.answer(start, bytes(len(CONTENT) - start))

    def endless(self, _start):
        self.answer(0, bytes(3_000_000), length="none")

    def drops(self, start):
        self.answer(start, b"drop", length=1000)

    def page(self, _start):
        self.answer(0, b"<html>please log in</html>")

    def chunked(self, start):
        self.protocol_version = "HTTP/1.1"
        self.send_response(206 if start else 200)
        self.send_header("Transfer-Encoding", "chunked")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        part = CONTENT[start : start + 200_000]
        self.wfile.write(b"%x\r\n" % len(part) + part + b"\r\n")
        self.close_connection = True

    def no_http(self, _start):
        self.wfile.write(b"what?\r\n\r\n")

    def error_503(self, _start):
        self.send_error(503)

    def error_404(self, _start):
        self.send_error(404)

    def moved(self, _start):
        self.send_response(302)
        self.send_header("Location", "/elsewhere/toy.pt")
        self.end_headers()

    def loop(self, _start):
        self.moved(0)
