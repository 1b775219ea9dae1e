"""A judge's endpoint whose every reply the test decides: over HTTP, on a free local port."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint(ThreadingHTTPServer):
    """A server whose reply to the n-th request is `answer(n, body)`: status and text or bytes."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.bodies, self.keys = answer, [], []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.busy = self.busiest = 0
        self.kind, self.drips = "application/json", False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        endpoint = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            endpoint.bodies.append(body)
            endpoint.keys.append(self.headers["Authorization"])
            endpoint.busy += 1
            endpoint.busiest = max(endpoint.busy, endpoint.busiest)
            number = len(endpoint.bodies)
        status, content = endpoint.answer(number, body)
        with endpoint.lock:
            endpoint.busy -= 1
        text = content if isinstance(content, bytes) else completion(content)
        self.send_response(status)
        self.send_header("Content-Type", endpoint.kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        while endpoint.drips and not endpoint.closing.wait(0.1):
            self.wfile.write(b" ")
            self.wfile.flush()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def completion(content):
    """The body of a chat completion that says this."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps(body).encode()
