"""Prompts of recurrent models: CPU seconds and peak memory by chunks, token by token, and in eager PyTorch.

Random weights in the shapes of published models, fewer layers where that is said; one thread. Every measurement is a
process of its own (its peak is that of a run and of loading), and the forms take turns.

    python benchmarks/recurrent.py [--only NAME ...] [--tokens 512 1000] [--rounds 3]  ->  one JSON document on stdout
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CTX_LEN, TURNS = 1024, 12
MODELS: dict[str, dict[str, Any]] = {
    "mamba2-130m": {
        "model_type": "mamba2", "hidden_size": 768, "num_heads": 24, "head_dim": 64, "state_size": 128, "n_groups": 1,
        "num_hidden_layers": 24, "vocab_size": 50288, "tie_word_embeddings": True,
    },
    "mamba-130m": {
        "model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280,
        "tie_word_embeddings": True,
    },
    "qwen3_next, 4 layers": {
        "model_type": "qwen3_next", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4,
        "vocab_size": 8192, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128,
        "linear_num_key_heads": 8, "linear_num_value_heads": 16, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "mlp_only_layers": [0, 1, 2, 3],
    },
    "lfm2, 8 layers": {
        "model_type": "lfm2", "hidden_size": 1024, "intermediate_size": 4608, "num_hidden_layers": 8,
        "vocab_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 8,
        "layer_types": (["conv"] * 3 + ["full_attention"]) * 2,
    },
}  # fmt: skip
TOKENIZER = Path(__file__).parent.parent / "qeffbuild" / "models" / "demo" / "tokenizer.json"
FORMS = ("chunked", "token_by_token", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=list(MODELS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[512, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.measure:
        form, place, tokens = words.measure
        print(json.dumps(measured(form, place, int(tokens))))
        return
    print(json.dumps({name: compared(name, words.tokens, words.rounds) for name in words.only}, indent=1))


def compared(name: str, lengths: list[int], rounds: int) -> dict[str, Any]:
    """The medians of one model, by form and length of the prompt."""
    with tempfile.TemporaryDirectory() as folder:
        save(MODELS[name], Path(folder))
        places = {form: folder if form == "torch" else built(folder, form) for form in FORMS}
        seen: dict[tuple[int, str], list[dict[str, float]]] = {}
        for _ in range(rounds):
            for tokens in lengths:
                for form, place in places.items():
                    command = [sys.executable, __file__, "--measure", form, place, str(tokens)]
                    seen.setdefault((tokens, form), []).append(json.loads(output_of(command)))
    return {f"{tokens}, {form}": medians(runs) for (tokens, form), runs in seen.items()}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def save(said: dict[str, Any], folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    config = CONFIG_MAPPING[said["model_type"]](**{key: value for key, value in said.items() if key != "model_type"})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    shutil.copyfile(TOKENIZER, folder / TOKENIZER.name)  # a package has one, whatever the text


def built(folder: str, form: str) -> str:
    """The package of a model; the export is shared."""
    asked = [f"model.path={folder}", f"backend.recurrence={form}", f"specialization.ctx_len={CTX_LEN}"]
    command = [sys.executable, "-m", "qeffbuild", "build", "model=hf", *asked, "gate=none", "--json"]
    return str(json.loads(output_of(command))["package"])


def output_of(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "critical"}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def measured(form: str, place: str, tokens: int) -> dict[str, float]:
    """CPU seconds of a second prompt, milliseconds of each token after it, and the peak of the process."""
    prompt, turn = in_torch(place, tokens) if form == "torch" else in_session(place, tokens)
    prompt()
    seconds = cpu_of(prompt)
    turns = [cpu_of(turn) for _ in range(TURNS)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"prompt_s": seconds, "token_ms": 1000 * statistics.median(turns), "peak_mb": peak}


def cpu_of(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def in_session(place: str, tokens: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import numpy as np

    from qeffbuild.backends.onnxruntime.session import open_session
    from qeffbuild.package import Package

    session = open_session(Package.open(Path(place)), threads=1)
    states = session.allocate("decoder", 1, CTX_LEN)
    ids = np.random.default_rng(0).integers(3, 8000, (1, tokens))

    def run(ids: Any, start: int) -> None:
        positions = np.arange(start, start + ids.shape[1])[None]
        index = np.array([[ids.shape[1] - 1]])
        session.run("decoder", {"input_ids": ids, "position_ids": positions, "logits_index": index}, states)

    return lambda: run(ids, 0), lambda: run(ids[:, :1], tokens)


def in_torch(place: str, tokens: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    ids, kept = torch.randint(3, 8000, (1, tokens)), {}

    @torch.no_grad()
    def prompt() -> None:
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        name = "past_key_values" if hasattr(out, "past_key_values") else "cache_params"
        kept[name] = getattr(out, name)

    @torch.no_grad()
    def turn() -> None:
        model(input_ids=ids[:, :1], use_cache=True, **kept)

    return prompt, turn


if __name__ == "__main__":
    main()
