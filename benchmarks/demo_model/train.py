"""The text of a Debian package -> the demo model: a small GPT-2 with its own tokenizer.

    sudo apt-get install bible-kjv bible-kjv-text
    python benchmarks/demo_model/train.py outputs/demo_model           # about an hour on one core
    python benchmarks/demo_model/train.py outputs/demo_model --steps 20   # a try-out

The same command on the same machine and torch gives the same weights. The folder always holds the best model so far.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measure import figures, nats, stream_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCAB_SIZE = 2048
SEQ_LEN = 512  # all positions of the model: a learned position that training never saw is noise
BATCH_SIZE = 8  # 4096 tokens
CALIBRATION = 12  # of every twenty-five
VALIDATION, HELD_OUT = 0, 50  # of every hundred chapters; the former choose the checkpoint, the latter nothing


def chapters() -> list[str]:
    """Every chapter as plain text, a verse a line, in the order of the book."""
    command = ["bible", "-f", "-l4000", "gen1:1-rev22:21"]
    try:
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        sys.exit("train.py: no command `bible`; install Debian's packages bible-kjv and bible-kjv-text")
    verses: dict[str, list[str]] = {}
    for line in said.splitlines():
        place, text = re.fullmatch(r"(\w+):\d+ (.+)", line).groups()
        verses.setdefault(place, []).append(text)
    return ["\n".join(lines) + "\n" for lines in verses.values()]


def split(texts: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Whole chapters to train on, to choose the checkpoint by, and to measure on."""
    special = (VALIDATION, HELD_OUT)
    train = [text for index, text in enumerate(texts) if index % 100 not in special]
    return train, texts[VALIDATION::100], texts[HELD_OUT::100]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text has tokens, and they decode to the same bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=SEQ_LEN,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def new_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=SEQ_LEN, n_embd=192, n_layer=4, n_head=6,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function in one kernel instead of eight
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,  # few epochs do not overfit
        bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def batches(stream: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Epoch after epoch, every token once: the stream cut at a new place each time, the pieces in a new order."""
    while True:
        start = int(torch.randint(SEQ_LEN, (1,), generator=generator))
        pieces = stream[start : start + (len(stream) - start) // SEQ_LEN * SEQ_LEN].view(-1, SEQ_LEN)
        order = torch.randperm(len(pieces), generator=generator)
        for at in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            yield pieces[order[at : at + BATCH_SIZE]]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is replaced by the nearest orthogonal one: learns about twice as much from a token as Adam.

    Newton-Schulz iteration and its coefficients after K. Jordan's "Muon" (2024), here in float32: bfloat16 is slow on
    processors without it.
    """

    def __init__(self, matrices: list[torch.Tensor], rate: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                moved = self.state[matrix].setdefault("moved", torch.zeros_like(matrix))
                moved.mul_(group["momentum"]).add_(matrix.grad)
                update = orthogonal(matrix.grad + group["momentum"] * moved)
                matrix.add_(update, alpha=-group["lr"] * max(1.0, matrix.shape[1] / matrix.shape[0]) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values moved near 1."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def optimizers_of(model: GPT2LMHeadModel, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and vectors."""
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
    outer = [p for name, p in model.named_parameters() if not (p.dim() == 2 and ".h." in name)]
    return [Muon(inner, rate), torch.optim.AdamW(outer, lr=rate / 6, betas=(0.9, 0.95), weight_decay=0.0)]


def fraction_of_rate(done: float) -> float:
    """Of the highest rate, after this part of the training: 2 % warm-up, level to 40 %, then straight down."""
    return done / 0.02 if done < 0.02 else min(1.0, (1 - done) / 0.6)


def save(folder: Path, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Store the weights as float16; the figures are those of the stored ones."""
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=model.config.eos_token_id
    )
    half.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(
    model: GPT2LMHeadModel, stream: torch.Tensor, validation: torch.Tensor, *, steps: int, stop: int, rate: float,
    keep: Callable[[], None],
) -> None:  # fmt: skip
    """Train along a schedule of `steps` as far as `stop`; `keep` the model when it validates best so far."""
    optimizers = optimizers_of(model, rate)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: fraction_of_rate((step + 1) / steps))
        for optimizer in optimizers
    ]
    source = batches(stream, torch.Generator().manual_seed(1))
    started, best = time.monotonic(), math.inf
    for step in range(1, stop + 1):
        batch = next(source)
        loss = model.train()(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for moving in (*optimizers, *schedules):
            moving.step()
        model.zero_grad()
        if step % 100 and step != stop:
            continue
        measured = nats(model.eval(), validation) / (len(validation) - 1)
        spent = time.monotonic() - started
        print(f"step {step}/{steps}  loss {loss.item():.3f}  validation {measured:.3f}  {spent:.0f} s", flush=True)
        if measured < best:
            best = measured
            keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--stop", type=int, help="end the schedule early, after this step")
    parser.add_argument("--rate", type=float, default=0.02)
    said = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    said.folder.mkdir(parents=True, exist_ok=True)
    train_texts, validation_texts, held_out_texts = split(chapters())
    (said.folder / "heldout.txt").write_text("\n".join(held_out_texts))
    (said.folder / "calibration.txt").write_text("\n".join(chapters()[CALIBRATION::25]))  # all of them trained on
    tokenizer = train_tokenizer(train_texts)
    model = new_model(tokenizer)
    stream = stream_of(tokenizer, train_texts)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(stream):,} tokens to train on", flush=True)

    def keep() -> None:
        save(said.folder, model, tokenizer)

    validation, stop = stream_of(tokenizer, validation_texts), said.stop or said.steps
    train(model, stream, validation, steps=said.steps, stop=stop, rate=said.rate, keep=keep)
    best = GPT2LMHeadModel.from_pretrained(said.folder, dtype=torch.float32)
    measured = figures(best, tokenizer, held_out_texts)
    (said.folder / "figures.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
