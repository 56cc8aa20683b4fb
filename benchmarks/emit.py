"""Time and peak memory from a model folder to the inputs of the Cloud AI 100 compiler: `python benchmarks/emit.py`.

Each model is random, of its family's own sizes, and written before the clock starts; each run has an empty cache. The
peak is that of the largest step, as the steps measure it. Beside it stands what was recorded of QEfficient.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# name -> model_type, what differs from the family's defaults, words of the build
MODELS = {
    "GPT-2 124M": ("gpt2", {}, ()),
    "GPT-2 124M, functions": ("gpt2", {}, ("backend.sub_functions=true",)),
    "Llama 284M": (
        "llama",
        {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 17, "num_attention_heads": 16}
        | {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 2048},
        (),
    ),
    "Llama 1.03B": (
        "llama",
        {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 20, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 2048},
        (),
    ),
}
# Of QEfficient 1.23.0.dev0 exporting the same sizes: least wall seconds (at a load of about 8) and least peak in MB.
RECORDED = {
    "GPT-2 124M": (18, 4676),
    "GPT-2 124M, functions": (17, 3584),
    "Llama 284M": (31, 9610),
    "Llama 1.03B": (87, 5402),
}
ROOT = Path(__file__).parents[1]


def write(folder: Path, model_type: str, sizes: dict[str, int]) -> int:
    """The model, in a process of its own; its number of parameters."""
    program = (
        "import sys, torch; from pathlib import Path; from transformers import AutoConfig, AutoModelForCausalLM\n"
        "from tests.golden.models import write_tokenizer\n"
        f"model = AutoModelForCausalLM.from_config(AutoConfig.for_model({model_type!r}, **{sizes!r}))\n"
        f"model.save_pretrained({str(folder)!r}); write_tokenizer(Path({str(folder)!r})); print(model.num_parameters())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure(name: str) -> None:
    model_type, sizes, words = MODELS[name]
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        parameters = write(model, model_type, sizes)
        shapes = ["specialization.prefill_seq_len=128", "specialization.ctx_len=1024", "backend=qaic"]
        command = ["emit", "model=hf", f"model.path={model}", *shapes, *words, f"out={scratch}/out", "--allow-outside"]
        environment = {**os.environ, "QEFFBUILD_CACHE": f"{scratch}/cache", "PYTHONPATH": str(ROOT)}
        began, load = time.perf_counter(), os.getloadavg()[0]
        with open(f"{scratch}/said", "w+") as said:
            to_said = [(os.POSIX_SPAWN_DUP2, said.fileno(), stream) for stream in (1, 2)]
            argv = [sys.executable, "-m", "qeffbuild", *command]
            _, status, used = os.wait4(os.posix_spawn(argv[0], argv, environment, file_actions=to_said), 0)
            seconds = time.perf_counter() - began
            said.seek(0)
            peaks = [int(number) for number in re.findall(r"peak (\d+) MB", said.read())]
        size = sum(path.stat().st_size for path in Path(scratch, "out").rglob("*"))
    cpu = used.ru_utime + used.ru_stime
    print(
        f"{name}: {parameters / 1e6:.0f} M parameters, exit {os.waitstatus_to_exitcode(status)}, {seconds:.1f} s, "
        f"{cpu:.1f} s CPU, peak {max(peaks, default=0)} MB, {size / 1e6:.0f} MB in the folder, load {load:.0f}; "
        f"recorded of QEfficient: {RECORDED[name][0]} s, peak {RECORDED[name][1]} MB",
        flush=True,
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for chosen in sys.argv[1:] or MODELS:
        measure(chosen)
