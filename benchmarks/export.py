"""What an export costs: CPU seconds beyond imports and peak memory, for models from 4 million to 47 billion weights.

An export reads no weight, so a table of names and shapes stands for each checkpoint. Each run is a process of its own,
and the models take turns, so that a busy moment of the machine does not fall on one of them alone.

    python benchmarks/export.py [--rounds 3] [--only NAME ...]  ->  one JSON document on stdout
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

DEMO = Path(__file__).parent.parent / "qeffbuild" / "models" / "demo" / "config.json"
CONFIGS: dict[str, dict[str, Any]] = {
    "demo": json.loads(DEMO.read_text()),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONFIGS, default=list(CONFIGS), metavar="NAME")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(measure(words.one)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in words.only}
    with tempfile.TemporaryDirectory() as root:
        for name in words.only:
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
