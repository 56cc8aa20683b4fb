"""A folder with the demo model -> its figures on the held-out text, and what it writes.

python benchmarks/demo_model/measure.py qeffbuild/models/demo

Stored weights are float16; the arithmetic is float32.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ("In the beginning", "And it came to pass", "Blessed are the", "The king said unto")


def chapters_of(text: str) -> list[str]:
    """heldout.txt as training saw chapters: a blank line stands between two."""
    return [chapter.rstrip("\n") + "\n" for chapter in text.split("\n\n")]


def stream_of(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """One stream of tokens: the end-of-text token stands before the first text and after each."""
    stream = [tokenizer.eos_token_id]
    for text in texts:
        stream += [*tokenizer.encode(text), tokenizer.eos_token_id]
    return torch.tensor(stream)


@torch.inference_mode()
def nats(model: Any, stream: torch.Tensor) -> float:
    """The sum of -log p over a stream, each token predicted from half a window of positions before it at least."""
    window = model.config.n_positions
    total, half = 0.0, window // 2
    for start in range(0, len(stream) - 1, half):
        tokens = stream[start : start + window + 1]
        fresh = 0 if start == 0 else half  # the first half was predicted by the window before
        if len(tokens) - 1 <= fresh:
            break
        logits = model(tokens[None, :-1]).logits[0, fresh:]
        total += torch.nn.functional.cross_entropy(logits.float(), tokens[1 + fresh :], reduction="sum").item()
    return total


def figures(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """Perplexity per token and per word, and bits per byte."""
    stream = stream_of(tokenizer, texts)
    tokens, loss = len(stream) - 1, nats(model, stream)
    words, size = sum(len(text.split()) for text in texts), sum(len(text.encode()) for text in texts)
    return {
        "tokens": tokens,
        "words": words,
        "bytes": size,
        "perplexity_per_token": round(math.exp(loss / tokens), 2),
        "perplexity_per_word": round(math.exp(loss / words), 1),
        "bits_per_byte": round(loss / math.log(2) / size, 3),
    }


@torch.inference_mode()
def samples(model: Any, tokenizer: Any) -> list[str]:
    """Each prompt continued greedily, then sampled."""
    texts = []
    for prompt in PROMPTS:
        tokens = tokenizer(prompt, return_tensors="pt")
        torch.manual_seed(0)
        for how in ({"do_sample": False}, {"do_sample": True, "temperature": 0.8, "top_k": 40}):
            answer = model.generate(**tokens, max_new_tokens=60, pad_token_id=tokenizer.eos_token_id, **how)
            texts.append(tokenizer.decode(answer[0], skip_special_tokens=True))
    return texts


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(json.dumps(figures(model, tokenizer, chapters_of((folder / "heldout.txt").read_text())), indent=1))
    for text in samples(model, tokenizer):
        print("-", text.replace("\n", "\n  "))


if __name__ == "__main__":
    main()
