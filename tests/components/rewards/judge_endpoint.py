"""A judge's endpoint whose every reply the test decides: over HTTP, on a free local port."""

import json
import threading

from tests.http_server import LocalServer, body, head


class Endpoint(LocalServer):
    """A server whose reply to the n-th request is `reply(n, body)`: status and text or bytes.

    `drips` keeps every reply back and sends a space every tenth of a second instead.
    """

    def __init__(self, reply):
        super().__init__()
        self.reply, self.bodies, self.keys = reply, [], []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.busy = self.busiest = 0
        self.kind, self.drips = "application/json", False
        self.url += "/v1"

    def __exit__(self, *_):
        self.closing.set()
        super().__exit__()

    def answer(self, handler):
        sent = json.loads(body(handler))
        with self.lock:
            self.bodies.append(sent)
            self.keys.append(handler.headers["Authorization"])
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
            number = len(self.bodies)
        status, content = self.reply(number, sent)
        with self.lock:
            self.busy -= 1
        text = content if isinstance(content, bytes) else completion(content)
        head(handler, status, len(text), Content_Type=self.kind)
        while self.drips and not self.closing.wait(0.1):
            handler.wfile.write(b" ")
            handler.wfile.flush()
        handler.wfile.write(text)


def completion(content):
    """The body of a chat completion that says this."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps(body).encode()
