"""A real server on this machine that says what a test tells it to: chat completions, failures, delays, broken connections."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    path: str
    body: Any
    headers: Mapping[str, str]
    number: int
    """Of the requests to this path, from 0."""

    @property
    def text(self) -> str:
        """The last message's content."""
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    num_sent: int | None = None
    """Bytes of the body after which the connection is dropped; None sends all."""


def chat(text: str | None, finish: str | None = "stop", counts: tuple[int, int] | None = (7, 3), **more: Any) -> dict[str, Any]:
    """A chat completion of the OpenAI kind."""
    reply: dict[str, Any] = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]
    }
    reply["choices"][0] |= more
    if counts:
        reply["usage"] = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
    return reply


def tokens(*pairs: tuple[bytes, float], tops: list[tuple[bytes, float]] | None = None) -> list[dict[str, Any]]:
    """Log-probabilities as the OpenAI kind lists them."""

    def entry(raw: bytes, log_prob: float) -> dict[str, Any]:
        return {"token": raw.decode("utf-8", "replace"), "bytes": list(raw), "logprob": log_prob}

    return [entry(*pair) | {"top_logprobs": [entry(*top) for top in tops or []]} for pair in pairs]


class FakeServer:
    """Answers each request with what `reply` says of it; a dict is sent as JSON with status 200. certificate: one file with key
    and certificate, for https.
    """

    def __init__(self, reply: Callable[[Seen], Any], certificate: Path | None = None) -> None:
        self.seen: list[Seen] = []
        self.num_open = 0
        self.most_open = 0
        self.num_broken = 0
        """Replies that nobody waited for."""
        self._reply, self._lock = reply, threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake._answer(self, json.loads(raw))

            def do_GET(self) -> None:
                fake._answer(self, None)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                fake.num_broken += 1

        self._server = Server(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.root = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.root}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def _answer(self, handler: Any, body: Any) -> None:
        with self._lock:
            number = sum(seen.path == handler.path for seen in self.seen)
            seen = Seen(handler.path, body, {name.lower(): value for name, value in handler.headers.items()}, number)
            self.seen.append(seen)
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
        try:
            said = self._reply(seen)
            reply = said if isinstance(said, Reply) else Reply(said)
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            time.sleep(reply.delay_s)
        finally:
            with self._lock:
                self.num_open -= 1
        handler.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(raw))} | dict(reply.headers)).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw[: reply.num_sent])
        if reply.num_sent is not None:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
