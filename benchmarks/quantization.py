"""What each quantization costs in accuracy: perplexity, KL and token agreement on held-out text -> a table.

    python benchmarks/quantization.py                  # the methods of docs/quantization.md on the demo model
    python benchmarks/quantization.py quantization=awq # only these words

Each line is `qeffbuild eval WORDS --json` on the model's own held-out text, 512 tokens of context, strided windows.
"""

from __future__ import annotations

import json
import subprocess
import sys

SHAPE = ["specialization.ctx_len=512", "specialization.prefill_seq_len=128", "specialization.batch_size=4"]
BLOCK = "quantization.block_size=128"
BUILDS = (
    "quantization=none", "quantization=int8", f"quantization=int8 {BLOCK}", f"quantization=int4 {BLOCK}",
    f"quantization=int4 {BLOCK} quantization.symmetric=false", "quantization=int4 quantization.block_size=32",
    "quantization=int4 backend.profile=fast",
    f"quantization=hqq {BLOCK}", f"quantization=hqq {BLOCK} quantization.symmetric=false", f"quantization=awq {BLOCK}",
    f"quantization=awq {BLOCK} quantization.symmetric=false", f"quantization=gptq {BLOCK}",
    f"quantization=gptq {BLOCK} quantization.symmetric=false", "quantization=gptq quantization.block_size=32",
    f"quantization=auto {BLOCK}", "quantization=dynamic", "quantization=fp8", "quantization=mxfp6_emulated",
    "quantization=mxfp4", "quantization=mxint8", "quantization.kv_cache=int8", "quantization.kv_cache=mxint8",
)  # fmt: skip


def measured(words: str) -> dict[str, float]:
    command = ["qeffbuild", "eval", *words.split(), *SHAPE, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    exact = None
    print("| build | perplexity | increase | KL, nats | same token |\n|---|---|---|---|---|")
    for words in [" ".join(sys.argv[1:])] if sys.argv[1:] else BUILDS:
        found = measured(words)
        exact = found["reference_perplexity"]
        increase, agreement = found["perplexity"] - exact, found["token_agreement"]
        line = f"| `{words}` | {found['perplexity']:.3f} | {increase:+.3f} | {found['kl']:.5f} | {agreement:.3f} |"
        print(line, flush=True)
    print(f"\nPyTorch in float32: {exact:.3f}")


if __name__ == "__main__":
    main()
