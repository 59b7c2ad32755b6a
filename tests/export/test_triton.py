"""A model repository says what its graph reads, and its client speaks to a server as KServe's protocol has it."""

from __future__ import annotations

import json
import re
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.signals import Batch
from distill.export.onnx.runtime import session
from distill.export.script import SAMPLE, SCRIPT
from distill.export.student import export
from distill.export.triton import CONFIG, Triton, config_text


def test_the_configuration_says_what_the_graph_reads() -> None:
    ids = SimpleNamespace(name="input_ids", type="tensor(int64)", shape=["batch", "length"])
    image = SimpleNamespace(name="x", type="tensor(float)", shape=["batch", 3, 8, "size_3"])
    number = SimpleNamespace(name="logits", type="tensor(float)", shape=["batch"])
    assert config_text([ids, image], [number]) == (
        'name: "student"\nbackend: "onnxruntime"\nmax_batch_size: 32\n'
        'input [\n  { name: "input_ids", data_type: TYPE_INT64, dims: [ -1 ] },\n'
        '  { name: "x", data_type: TYPE_FP32, dims: [ 3, 8, -1 ] }\n]\n'
        'output [\n  { name: "logits", data_type: TYPE_FP32, dims: [ 1 ], reshape: { shape: [ ] } }\n]\n'
        "dynamic_batching { max_queue_delay_microseconds: 1000 }\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = [Batch({"input": torch.randn(8, 4)}, labels=torch.arange(8) % 3)]
    assert export(student, "triton", tmp_path / "out", data)["verified"]["relative_error"] < 1e-5
    return tmp_path / "out"


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """Answers as the server does, by the graph of the repository."""
    run, asked = session(folder / str(Triton.onnx)), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kinds = {"FP32": np.float32, "INT64": np.int64}
            feed = {x["name"]: np.array(x["data"], kinds[x["datatype"]]).reshape(x["shape"]) for x in body["inputs"]}
            [found] = run.run(["logits"], feed)
            said = {"name": "logits", "datatype": "FP32", "shape": found.shape, "data": found.ravel().tolist()}
            answer = json.dumps({"model_name": "student", "outputs": [said]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    assert asked == ["/v2/models/student/infer"]


def test_the_client_asks_the_server_and_gets_the_graphs_logits(
    folder: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = folder / SCRIPT
    client.write_text(client.read_text().replace("http://localhost:8000", server))
    capsys.readouterr()
    runpy.run_path(str(client))
    shown = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", capsys.readouterr().out)]
    sample = dict(np.load(folder / SAMPLE))
    [expected] = session(folder / "repository/student/1/model.onnx").run(["logits"], sample)
    assert shown == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert 'name: "input", data_type: TYPE_FP32, dims: [ 4 ]' in (folder / CONFIG).read_text()
