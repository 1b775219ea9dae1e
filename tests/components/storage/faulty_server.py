"""A proxy before a real S3 server that spoils answers as broken networks and servers do."""

import http.client
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Answer:
    """An answer of the real server, for a fault to change before it is sent."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        self.length = len(body)  # as announced, whatever is sent
        self.resets = False
        self.pause = 0.0  # seconds before each kilobyte


class Faulty:
    """`fault(handler, ask)` returns the Answer; `ask()` gets the real one. `with` starts it."""

    def __init__(self, server, fault):
        self.target = urllib.parse.urlsplit(server.endpoint).netloc
        self.fault, self.requests, self.lock = fault, [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.handle(self)

            do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.http.server_address[1]}"

    def handle(self, handler):
        sent = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self.lock:
            self.requests.append(f"{handler.command} {handler.path}")
        answer = self.fault(handler, lambda: self.ask(handler, sent))
        if answer.resets:
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(answer.length))
        handler.end_headers()
        if handler.command != "HEAD":
            self.send(handler, answer)
        handler.close_connection |= answer.length != len(answer.body)

    @staticmethod
    def send(handler, answer):
        size = 1024 if answer.pause else 1 << 20
        try:
            for start in range(0, len(answer.body), size):
                time.sleep(answer.pause)
                handler.wfile.write(answer.body[start : start + size])
        except OSError:
            handler.close_connection = True  # the client went first

    def ask(self, handler, sent):
        """The real server's answer. Signatures cover the headers, so all are sent on."""
        connection = http.client.HTTPConnection(self.target, timeout=60)
        try:
            connection.request(handler.command, handler.path, sent, dict(handler.headers))
            answer = connection.getresponse()
            headers = [pair for pair in answer.getheaders() if pair[0].lower() not in HOP]
            found = Answer(answer.status, headers, answer.read())
            found.length = int(answer.getheader("Content-Length") or len(found.body))
            return found
        finally:
            connection.close()

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def busy():
    """The answer of an overloaded server."""
    return Answer(503, [("Content-Type", "application/xml")], BUSY)


def refusal(code, status=403):
    """The answer of a server that does not allow a request, by Amazon's word for the reason."""
    body = f"<Error><Code>{code}</Code><Region>eu-central-1</Region></Error>".encode()
    return Answer(status, [("Content-Type", "application/xml")], body)


def reset():
    """No answer: the connection breaks."""
    answer = Answer(200, [], b"")
    answer.resets = True
    return answer


def truncated(answer):
    """Half of the body that was announced."""
    answer.body = answer.body[: len(answer.body) // 2]
    return answer


def flipped(answer):
    """One bit in the middle of the body."""
    if answer.body:
        middle = len(answer.body) // 2
        body = answer.body
        answer.body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    return answer


def chances(rng, **shares):
    """A fault by chance for each request; a share of 0.3 is 30% of them."""
    lock = threading.Lock()

    def fault(handler, ask):
        with lock:
            drawn = rng.random()
        for name, share in shares.items():
            if drawn < share:
                return {
                    "busy": busy,
                    "reset": reset,
                    "truncated": lambda: truncated(ask()),
                    "flipped": lambda: flipped(ask()) if handler.command == "GET" else ask(),
                }[name]()
            drawn -= share
        return ask()

    return fault
