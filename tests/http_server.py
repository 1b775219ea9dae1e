"""HTTP on a free port of this machine, for stand-ins whose answers a test decides."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalServer:
    """`with` starts and stops it; a subclass gives `answer(handler)`, called for every request."""

    def __init__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            do_HEAD = do_POST = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def body(handler):
    """The bytes that a request brought."""
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def head(handler, status, length, **headers):
    """Status and headers of a reply of so many bytes; `_` in a header's name is sent as `-`."""
    handler.send_response(status)
    for name, value in {"Content_Type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def send(handler, status, content, **headers):
    """Status, headers and content: bytes and text as they are, the rest as JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    head(handler, status, len(content), **headers)
    if handler.command != "HEAD":
        handler.wfile.write(content)
