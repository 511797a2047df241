"""A stand-in for llama-server that misbehaves on order: `python -m tests.stand_in <flags> --do X`.

It takes the flags it needs and ignores llama-server's others. `--do` may be given several times. With
`--oom-until N` it finds no memory until the file `--oom-count` says that it has been started N times.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}


class Handler(BaseHTTPRequestHandler):
    """Answers /health, /slots and streams of ten events."""

    protocol_version = "HTTP/1.1"
    orders: set[str]
    alias: str

    def do_GET(self) -> None:
        """Everything is healthy; nothing runs."""
        self._whole(200, b'{"status":"ok"}')

    def do_POST(self) -> None:
        """Stream, or whatever was ordered instead."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = f"Bearer {os.environ.get('LLAMA_API_KEY')}"
        if "guarded" in self.orders and self.headers.get("Authorization") != key:
            self._whole(401, b'{"error":{"code":401,"message":"Invalid API Key"}}')
            return
        if "garbage" in self.orders:
            self.wfile.write(b"I am no HTTP server\r\n\r\n")
            self.close_connection = True
            return
        if "error-400" in self.orders:
            error = {"code": 400, "message": "bad grammar", "type": "invalid_request_error"}
            self._whole(400, json.dumps({"error": error}).encode())
            return
        if "die-before-head" in self.orders:
            os._exit(9)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if "silent" in self.orders:
            time.sleep(60)
        if "error-early" in self.orders:
            self._event(
                json.dumps({"error": {"code": 400, "message": "too odd", "type": "invalid_request_error"}})
            )
        for number in range(10):
            if number == 3 and "die-mid-stream" in self.orders:
                self.wfile.write(b"ff\r\ndata: {half")
                self.wfile.flush()
                os._exit(9)
            if number == 3 and "silent-mid-stream" in self.orders:
                time.sleep(60)
            if "paced" in self.orders:
                time.sleep(0.1)
            choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
            self._event(json.dumps({**CHUNK, "model": self.alias, "choices": [choice]}))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.flush()

    def _whole(self, status: int, body: bytes) -> None:
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


def list_devices(orders: set[str]) -> None:
    """A pretended GPU, or what a program says that is too old for that."""
    if "cannot-list" in orders:
        sys.exit("error: invalid argument: --list-devices")
    print("Available devices:\n  CUDA0: Pretended (780 MiB, 780 MiB free)")
    sys.exit()


def allocate(count: Path, enough: int) -> None:
    """Find no memory until it was started often enough."""
    starts = int(count.read_text()) if count.exists() else 0
    count.write_text(str(starts + 1))
    if starts < enough:
        print(
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 900.00 MiB on device 0: "
            "cudaMalloc failed: out of memory"
        )
        sys.exit("llama_model_load: error loading model: unable to allocate CUDA0 buffer")


def main() -> None:
    """Serve, or fail as ordered."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--alias")
    parser.add_argument("--port", type=int)
    parser.add_argument("--do", action="append", default=[])
    parser.add_argument("--oom-until", type=int, default=0)
    parser.add_argument("--oom-count", type=Path)
    parser.add_argument("--version", action="version", version="version: 11549 (stand-in)")
    parser.add_argument("--list-devices", action="store_true")
    options, _ = parser.parse_known_args()
    orders = set(options.do)
    if options.list_devices:
        list_devices(orders)
    print("no usable GPU found" if "no-gpu" in orders else "stand-in starts", flush=True)
    if options.oom_count is not None:
        allocate(options.oom_count, options.oom_until)
    if "ignore-term" in orders:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "grandchild" in orders:
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
        subprocess.Popen([sys.executable, "-c", code])
    if "exit-at-start" in orders:
        sys.exit("error: no such layer: blk.99")
    if "port-taken" in orders:
        sys.exit("couldn't bind HTTP server socket, port taken")
    if "hang-at-start" in orders:
        signal.pause()
    if "slow-load" in orders:
        for part in range(8):
            print(f"loading part {part}", flush=True)
            time.sleep(0.2)
    if "endless-line" in orders:
        sys.stdout.write("x" * 1_000_000)
        sys.stdout.flush()
    if "flood" in orders:
        sys.stdout.write("no-end-of-the-line-" * 1_000_000 + "\n")
        sys.stdout.write("".join(f"line {number}\n" for number in range(200_000)))
        print("the last one", flush=True)
    Handler.orders = orders
    Handler.alias = options.alias
    Server.allow_reuse_port = "reuse-port" in orders
    Server((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
