"""What an export costs: CPU seconds beyond imports and peak memory, for GPT-2 124M and a llama of 1.1 billion weights.

The weights are sparse files of the right sizes, so nothing big is written; each run is a process of its own, and the
models take turns, so that a busy moment of the machine does not fall on one of them alone.

    python benchmarks/export.py [--rounds 3]  ->  one JSON document on stdout
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2-124m": {"model_type": "gpt2", "tie_word_embeddings": True},
    "llama-1.1b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def prepare(name: str, folder: Path) -> None:
    """Write a sparse model.safetensors and the facts of it."""
    from qeffbuild.export.skeleton import configuration, skeleton

    said = CONFIGS[name]
    header: dict[str, Any] = {}
    end = 0
    for tensor, parameter in skeleton(configuration(said)).named_parameters():
        begin, end = end, end + 4 * parameter.numel()
        header[tensor] = {"dtype": "F32", "shape": list(parameter.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    tensors = {
        tensor: {
            "file": "model.safetensors",
            "offset": 8 + len(text) + item["data_offsets"][0],
            "nbytes": item["data_offsets"][1] - item["data_offsets"][0],
            "dtype": "float32",
            "shape": item["shape"],
        }
        for tensor, item in header.items()
    }
    facts = {"schema": 1, "config": said, "tensors": tensors}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(measure(words.one)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONFIGS}
    with tempfile.TemporaryDirectory() as root:
        for name in CONFIGS:
            (Path(root) / name).mkdir()
            prepare(name, Path(root) / name)
        for _ in range(words.rounds):
            for name, done in runs.items():
                command = [sys.executable, __file__, "--one", str(Path(root) / name)]
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
