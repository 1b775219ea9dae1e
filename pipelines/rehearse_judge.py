"""A judge for a rehearsal: it ranks answers by their place, so that the rewards of a group differ.

It answers as an OpenAI-compatible endpoint does to the requests of `components.rewards.judge`.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def judge() -> Iterator[str]:
    """Serves on this machine meanwhile; yields the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Scores 0, 1, 2 and so on, in the order of the answers."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        names = asked["response_format"]["json_schema"]["schema"]["required"]
        scores = {name: place % 11 for place, name in enumerate(names)}
        message = {"role": "assistant", "content": json.dumps(scores)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        facts = {"id": "0", "object": "chat.completion", "created": 0, "model": asked["model"]}
        content = json.dumps({**facts, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """The stage's own output says enough."""
