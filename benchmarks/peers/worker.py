"""One engine in one process: `python worker.py ENGINE MODEL THREADS`, requests and answers as JSON lines.

It runs in the engine's own environment, so it imports nothing of ours unless the engine is ours. A request is
{"prompt": [ids], "tokens": N}: the prompt is read, then N tokens are decoded greedily. With "then": [ids] and
"save": FILE those tokens are fed one by one instead, and the logits before each of them are saved, for KL.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Protocol

import numpy as np

CONTEXT = 1152


class Engine(Protocol):
    def prefill(self, token_ids: list[int]) -> np.ndarray:
        """Forgets all and reads a prompt; the logits behind its last token."""

    def step(self, token_id: int) -> np.ndarray: ...


class Ours:
    def __init__(self, model: str, threads: int) -> None:
        from qeffbuild.package import Package
        from qeffbuild.runtime.session import open_session

        package = Package.open(Path(model))
        self.width = package.specialization["prefill_seq_len"]
        self.session = open_session(package, threads=threads)
        self.states = self.session.allocate("decoder", 1, CONTEXT)
        one = np.zeros((1, 1), np.int64)
        self.one = {"input_ids": one, "position_ids": one.copy(), "logits_index": one.copy()}

    def prefill(self, token_ids: list[int]) -> np.ndarray:
        logits = np.zeros(0)
        for start in range(0, len(token_ids), self.width):
            part = np.array([token_ids[start : start + self.width]])
            positions = np.arange(start, start + part.shape[1])[None]
            feed = {"input_ids": part, "position_ids": positions, "logits_index": np.array([[part.shape[1] - 1]])}
            logits = self.session.run("decoder", feed, self.states)["logits"]
        self.one["position_ids"][...] = len(token_ids) - 1
        return logits[0, 0]

    def step(self, token_id: int) -> np.ndarray:
        self.one["input_ids"][...] = token_id
        self.one["position_ids"] += 1
        return self.session.run("decoder", self.one, self.states)["logits"][0, 0]


class Transformers:
    def __init__(self, model: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        self.network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def _run(self, token_ids: list[int], past: Any) -> np.ndarray:
        with self.torch.inference_mode():
            made = self.network(self.torch.tensor([token_ids]), past_key_values=past, use_cache=True, logits_to_keep=1)
        self.past = made.past_key_values
        return made.logits[0, -1].numpy()

    def prefill(self, token_ids: list[int]) -> np.ndarray:
        return self._run(token_ids, None)

    def step(self, token_id: int) -> np.ndarray:
        return self._run([token_id], self.past)


class OpenVino(Transformers):
    def __init__(self, model: str, threads: int) -> None:
        import torch
        from optimum.intel import OVModelForCausalLM

        self.torch = torch
        asked = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.network = OVModelForCausalLM.from_pretrained(model, ov_config=asked)

    def _run(self, token_ids: list[int], past: Any) -> np.ndarray:
        made = self.network(
            input_ids=self.torch.tensor([token_ids]), past_key_values=past, use_cache=True,
            attention_mask=self.torch.ones(1, self.length + len(token_ids), dtype=self.torch.int64),
        )  # fmt: skip
        self.past, self.length = made.past_key_values, self.length + len(token_ids)
        return np.asarray(made.logits)[0, -1]

    def prefill(self, token_ids: list[int]) -> np.ndarray:
        self.length = 0
        return self._run(token_ids, None)


class Optimum(OpenVino):
    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime as ort
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        self.torch = torch
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.network = ORTModelForCausalLM.from_pretrained(model, session_options=options)


class LlamaCpp:
    def __init__(self, model: str, threads: int) -> None:
        import llama_cpp as lib

        self.lib = lib
        lib.llama_backend_init()
        self.silence = lib.llama_log_callback(lambda *said: None)
        lib.llama_log_set(self.silence, ctypes.c_void_p(0))
        self.model = lib.llama_model_load_from_file(model.encode(), lib.llama_model_default_params())
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = CONTEXT, CONTEXT, threads, threads
        self.context = lib.llama_init_from_model(self.model, params)
        self.batch = lib.llama_batch_init(CONTEXT, 0, 1)
        self.length = 0

    def _run(self, token_ids: list[int]) -> np.ndarray:
        for place, token_id in enumerate(token_ids):
            self.batch.token[place], self.batch.pos[place] = token_id, self.length + place
            self.batch.n_seq_id[place], self.batch.seq_id[place][0] = 1, 0
            self.batch.logits[place] = place == len(token_ids) - 1
        self.batch.n_tokens = len(token_ids)
        if self.lib.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        self.length += len(token_ids)
        made = self.lib.llama_get_logits_ith(self.context, len(token_ids) - 1)
        return np.ctypeslib.as_array(made, (self.vocabulary,))

    def prefill(self, token_ids: list[int]) -> np.ndarray:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)
        self.length = 0
        return self._run(token_ids)

    def step(self, token_id: int) -> np.ndarray:
        return self._run([token_id])


class GenAI:
    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime_genai as genai

        self.genai = genai
        config = genai.Config(model)
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self.model = genai.Model(config)

    def prefill(self, token_ids: list[int]) -> np.ndarray:
        params = self.genai.GeneratorParams(self.model)
        params.set_search_options(max_length=CONTEXT, min_length=CONTEXT, do_sample=False)
        self.generator = self.genai.Generator(self.model, params)
        self.generator.append_tokens(np.array(token_ids, np.int32))
        return np.asarray(self.generator.get_logits()).reshape(-1)

    def step(self, token_id: int) -> np.ndarray:
        self.generator.append_tokens(np.array([token_id], np.int32))
        return np.asarray(self.generator.get_logits()).reshape(-1)


ENGINES = {
    "qeffbuild": Ours,
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
    "onnxruntime-genai": GenAI,
    "openvino": OpenVino,
    "optimum-onnx": Optimum,
}


def answer(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    wall, cpu = perf_counter(), process_time()
    logits = engine.prefill(asked["prompt"])
    said: dict[str, Any] = {"prefill_wall": perf_counter() - wall, "prefill_cpu": process_time() - cpu}
    if "then" in asked:
        rows = []
        for token_id in asked["then"]:
            rows.append(np.array(logits, np.float32))
            logits = engine.step(token_id)
        np.save(asked["save"], np.stack(rows))
        return said
    walls, cpus = [], []
    for _ in range(asked["tokens"]):
        wall, cpu = perf_counter(), process_time()
        logits = engine.step(int(logits.argmax()))
        walls.append(perf_counter() - wall)
        cpus.append(process_time() - cpu)
    return {**said, "decode_wall": median(walls), "decode_cpu": median(cpus), "peak_mb": memory("VmHWM")}


def memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    name, model, threads = sys.argv[1:]
    replies = sys.stdout
    sys.stdout = sys.stderr  # what libraries say is no answer
    before = memory("VmRSS")
    wall, cpu = perf_counter(), process_time()
    engine = ENGINES[name](model, int(threads))
    loaded = {"load_wall": perf_counter() - wall, "load_cpu": process_time() - cpu, "before_mb": before}
    print(json.dumps(loaded), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
