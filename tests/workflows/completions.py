"""What stands for vLLM: a server on loopback that runs a small model, and its connector for hidden states."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Answer = dict[str, Any]


class Completions:
    """What it answers, and what it was asked.

    Attributes:
        form: ``vllm`` or ``echo``: the other's field is not known to it.
        most: Log-probabilities of a token that it gives at most.
        change: Alters an answer before it is sent.
        fail: Takes the number of the request; gives a status and headers instead of an answer, ``cut`` for a
            connection that ends within it, or ``None``.
        asked: The bodies of all requests that were answered; ``keys`` the headers Authorization of all.
    """

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.form, self.most, self.max_model_len = "vllm", 20, 2048
        self.change: Callable[[Answer], None] = lambda answer: None
        self.fail: Callable[[int], Any] = lambda number: None
        self.asked: list[Answer] = []
        self.keys: list[str | None] = []
        self.posts, self._lock = 0, threading.Lock()
        self.url = ""

    def answer(self, body: Answer) -> tuple[int, Answer]:
        wanted = body.get("prompt_logprobs") if self.form == "vllm" else body.get("logprobs")
        if wanted is not None and wanted > self.most:
            problem = f"Requested prompt logprobs of {wanted}, which is greater than max allowed: {self.most}"
            return 400, {"error": {"message": problem, "type": "BadRequestError", "code": 400}}
        prompt = body["prompt"]
        with torch.no_grad():
            logp = self.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        choice: Answer = {"index": 0, "text": "x", "logprobs": None, "finish_reason": "length"}
        if wanted and self.form == "vllm":
            choice["prompt_logprobs"] = [None, *(self._entry(logp[i], t, wanted) for i, t in enumerate(prompt[1:]))]
        if wanted and self.form == "echo" and body.get("echo"):
            rows = [dict(self._pairs(logp[i], t, wanted)) for i, t in enumerate(prompt[1:])]
            text = self.tokenizer.decode
            choice["logprobs"] = {
                "tokens": [*map(text, prompt), "x"],
                "token_logprobs": [None, *(float(logp[i, t]) for i, t in enumerate(prompt[1:])), -1.0],
                "top_logprobs": [None, *({text(i): lp for i, lp in row.items()} for row in rows), {"x": -1.0}],
                "text_offset": [-1] * (len(prompt) + 1),
            }
        return 200, {"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}}

    def _pairs(self, logp: torch.Tensor, token: int, k: int) -> list[tuple[int, float]]:
        values, ids = logp.topk(k)
        return [(token, float(logp[token])), *zip(ids.tolist(), values.tolist(), strict=True)]

    def _entry(self, logp: torch.Tensor, token: int, k: int) -> Answer:
        ranks = {i: int((logp > lp).sum()) + 1 for i, lp in self._pairs(logp, token, k)}
        text = self.tokenizer.decode
        pairs = dict(self._pairs(logp, token, k))
        return {str(i): {"logprob": lp, "rank": ranks[i], "decoded_token": text([i])} for i, lp in pairs.items()}


def _handler(server: Completions) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            server.keys.append(self.headers.get("Authorization"))
            models = {"data": [{"id": "big", "object": "model", "max_model_len": server.max_model_len}]}
            self._send(200, models) if self.path == "/v1/models" else self._send(404, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.keys.append(self.headers.get("Authorization"))
            with server._lock:
                server.posts += 1
                failed = server.fail(server.posts)
            if failed == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
                return
            if failed is not None:
                self._send(failed[0], {"error": "busy"}, failed[1])
                return
            with server._lock:
                server.asked.append(body)
            status, answer = server.answer(body)
            if status == 200 and "prompt_logprobs" in answer["choices"][0]:
                server.change(answer)
            self._send(status, answer)

        def _send(self, status: int, answer: Answer, headers: Any = ()) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the other side has closed is nothing to speak of."""


@contextmanager
def served(folder: Path) -> Iterator[Completions]:
    """A server of the model in ``folder``."""
    completions = Completions(folder)
    http = _Quiet(("127.0.0.1", 0), _handler(completions))
    completions.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield completions
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def connector(
    model: str | Path, prompts: str | Path, folder: str | Path, layers: tuple[int, ...] = (1, 2), norm: bool = False
) -> None:
    """Write what vLLM's ExampleHiddenStatesConnector writes, of the layers that are asked for (1 is the first)."""
    runs: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    Path(folder).mkdir()
    taken: list[torch.Tensor] = []
    for layer in runs.model.layers:
        layer.register_forward_hook(lambda module, args, out: taken.append(out))
    for number, line in enumerate(Path(prompts).read_text().splitlines()):
        ids = torch.tensor(json.loads(line)["prompt_token_ids"])
        taken.clear()
        with torch.no_grad():
            runs(ids[None])
        states = torch.stack([taken[k - 1].view(len(ids), -1) for k in layers], dim=1)
        states = runs.model.norm(states).detach() if norm else states
        save_file({"hidden_states": states.contiguous(), "token_ids": ids}, Path(folder, f"cmpl-{number}.safetensors"))
        Path(folder, f"cmpl-{number}.safetensors.lock").touch()
