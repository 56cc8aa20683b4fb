"""What an export costs: CPU seconds beyond imports and peak memory, for models from 4 million to 140 billion weights.

An export reads no weight, so a table of names and shapes stands for each checkpoint. Each run is a process of its own,
and the models take turns, so that a busy moment of the machine does not fall on one of them alone. With --plain,
`torch.onnx.export` of the same model (random weights in memory, no cache) takes its turn, too, where the model fits.

    python benchmarks/export.py [--rounds 3] [--only NAME ...] [--plain]  ->  one JSON document on stdout
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PLAIN = "torch.onnx.export of "
DEMO = Path(__file__).parent.parent / "qeffbuild" / "models" / "demo" / "config.json"
_LLAMA: dict[str, Any] = {"model_type": "llama", "vocab_size": 32000, "tie_word_embeddings": False}
_LLAMA_70B = {
    **_LLAMA,
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
_LLAMA_1B = {
    **_LLAMA,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "demo": json.loads(DEMO.read_text()),
    "gpt2-124m": {"model_type": "gpt2", "tie_word_embeddings": True},
    "llama-160m": {
        **_LLAMA,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
    "llama-1.1b": {**_LLAMA_1B, "num_hidden_layers": 22},
    "llama-1.1b, layers doubled": {**_LLAMA_1B, "num_hidden_layers": 44},
    "llama-70b": {**_LLAMA_70B, "num_hidden_layers": 80},
    "llama-70b, layers doubled": {**_LLAMA_70B, "num_hidden_layers": 160},
    "gemma2-9b": {"model_type": "gemma2", "num_hidden_layers": 42},
    "falcon-7b": {"model_type": "falcon"},
    "mpt-7b": {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32},
    "mixtral-8x7b": {"model_type": "mixtral"},
    "gpt-oss-20b": {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32},
}


def prepare(name: str, folder: Path) -> None:
    """Write the facts of a checkpoint that holds every parameter under its own name."""
    from qeffbuild.export.skeleton import configuration, skeleton

    tensors: dict[str, Any] = {}
    end = 8
    for tensor, parameter in skeleton(configuration(CONFIGS[name])).named_parameters():
        nbytes = 4 * parameter.numel()
        where = {"file": "model.safetensors", "offset": end, "nbytes": nbytes}
        tensors[tensor] = {**where, "dtype": "float32", "shape": list(parameter.shape)}
        end += nbytes
    facts = {"schema": 1, "config": CONFIGS[name], "tensors": tensors}
    (folder / "facts.json").write_text(json.dumps(facts))


def measure(folder: Path) -> dict[str, Any]:
    """One export, in this process."""
    from qeffbuild.export import export

    facts = json.loads((folder / "facts.json").read_text())
    imported = time.process_time()
    report = export(facts, folder)
    spent = time.process_time() - imported
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": round(spent, 2), "peak_mb": round(peak_mb), "layers_traced": report.layers_traced}


def measure_plain(name: str, folder: Path) -> dict[str, Any]:
    """The same model by torch alone. Its weights are made before the clock starts."""
    import torch
    import transformers

    torch.set_num_threads(1)
    config = dict(CONFIGS[name])
    made = transformers.AutoConfig.for_model(config.pop("model_type"), **config, use_cache=False)
    model = transformers.AutoModelForCausalLM.from_config(made).eval()
    tokens = torch.ones(2, 3, dtype=torch.long)
    dynamic = {"input_ids": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    imported = time.process_time()
    torch.onnx.export(model, (tokens,), folder / "plain.onnx", dynamo=True, dynamic_shapes=dynamic, verbose=False)
    spent = time.process_time() - imported
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": round(spent, 2), "peak_mb": round(peak_mb)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONFIGS, default=list(CONFIGS), metavar="NAME")
    parser.add_argument("--plain", action="store_true", help="torch.onnx.export beside each, up to 1.1 billion weights")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        name, folder = words.one[0], Path(words.one[1])
        is_plain = name.startswith(PLAIN)
        print(json.dumps(measure_plain(name.removeprefix(PLAIN), folder) if is_plain else measure(folder)))
        return
    names = [*words.only]
    if words.plain:
        names += [PLAIN + name for name in words.only if name in ("gpt2-124m", "llama-160m", "llama-1.1b")]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as root:
        for name in words.only:
            (Path(root) / name).mkdir()
            prepare(name, Path(root) / name)
        for _ in range(words.rounds):
            for name, done in runs.items():
                place = Path(root) / name.removeprefix(PLAIN)
                command = [sys.executable, __file__, "--one", name, str(place)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
                out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
                done.append(json.loads(out.splitlines()[-1]))
    said = {
        name: {
            "median_cpu_s": statistics.median(run["cpu_s"] for run in done),
            "peak_mb": max(run["peak_mb"] for run in done),
            "runs": done,
        }
        for name, done in runs.items()
    }
    print(json.dumps({"schema": 1, "benchmark": "export", "models": said}, indent=1))


if __name__ == "__main__":
    main()
