"""A server on this machine that can be cut off, resumes or not, and remembers what it was asked."""

import contextlib
import http.server
import threading

import numpy as np

CONTENT = np.random.default_rng(0).bytes(1_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `limit` cuts answers short, `ranges` says whether it resumes, `requests` what was asked."""

    limit, ranges, content = None, True, CONTENT

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        body = self.server.content[begin:]
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if begin and not body:
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        if begin:
            size = len(self.server.content)
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.limit])
        return None

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(content=CONTENT):
    """Serve a file on this machine."""
    with Server() as server:
        server.content = content
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
