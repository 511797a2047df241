"""A stand-in for llama-server that writes down all it is sent: `python -m tests.stand_in_recorder`.

Each request is a line of JSON in the file: its path, and its body as text. Chats are answered with `--say`,
or with an error where the body is longer than `--longest` characters; texts with vectors and with scores.
A path with `--hang` in it is not answered at all.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class Handler(BaseHTTPRequestHandler):
    """Healthy, and polite to everybody."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    options: argparse.Namespace

    def do_GET(self) -> None:
        """Whatever is asked for is fine."""
        self._whole({"status": "ok"})

    def do_POST(self) -> None:
        """Write it down, and answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        with self.options.record.open("a") as file:
            file.write(json.dumps({"path": self.path, "body": body}) + "\n")
        if self.options.hang and self.options.hang in self.path:
            time.sleep(600)
        if len(body) > self.options.longest:
            error = {"code": 400, "message": "the prompt is too long", "type": "exceed_context_size_error"}
            self._whole({"error": error}, 400)
        elif "chat" in self.path:
            self._stream()
        elif "embed" in self.path:
            texts = json.loads(body)["input"]
            rows = [
                {"index": n, "embedding": [1.0, 0.5]}
                for n in range(1 if isinstance(texts, str) else len(texts))
            ]
            self._whole({"data": rows, "usage": USAGE})
        elif "rerank" in self.path:
            count = len(json.loads(body)["documents"])
            self._whole({"results": [{"index": n, "relevance_score": 1.0} for n in range(count)]})
        else:
            self._whole({"tokens": [1], "input_tokens": 1, "prompt": "x"})

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in self.options.say.split(" "):
            self._event(delta={"content": f"{word} "})
        self._event(delta={}, finish_reason="stop")
        self._send(f"data: {json.dumps({**CHUNK, 'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, **choice: Any) -> None:
        told = {**CHUNK, "choices": [{"index": 0, "finish_reason": None, **choice}]}
        self._send(f"data: {json.dumps(told)}\n\n")

    def _send(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _whole(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silence."""


class Server(ThreadingHTTPServer):
    """Says nothing of clients that leave."""

    def handle_error(self, *_: object) -> None:
        """Silence."""


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--hang", default="")
    parser.add_argument("--say", default="hello")
    parser.add_argument("--longest", type=int, default=10**9)
    parser.add_argument("--version", action="version", version="version: 11549 (stand-in)")
    Handler.options, _ = parser.parse_known_args()
    print("stand-in starts", flush=True)
    Server((Handler.options.host, Handler.options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
