"""What a tiny model of another task has beyond its sizes: the token it begins with, characters, a processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from qeffbuild.models.tasks import CTC, SPEECH, TEXT

# Blank first, as the wav2vec2 family has it; | stands between words.
CHARACTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
_SOUND_SIZES: dict[str, Any] = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
_CONVOLUTIONS = 32


def beyond_causal(config: Any, task: str, end: int) -> dict[str, Any]:
    """Values of a tiny configuration that depend on its task; `config` has the family's defaults."""
    fixed: dict[str, Any] = {}
    if task in (SPEECH, TEXT):
        tokens = ("pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
        chosen = (end, end, None, None)
        fixed |= {name: token for name, token in zip(tokens, chosen, strict=True) if hasattr(config, name)}
        fixed |= {name: [] for name in ("suppress_tokens", "begin_suppress_tokens") if hasattr(config, name)}
    else:
        fixed |= {"pad_token_id": end} if hasattr(config, "pad_token_id") else {}
        fixed |= {"decoder_start_token_id": end} if getattr(config, "is_encoder_decoder", False) else {}
    fixed |= {name: value for name, value in _SOUND_SIZES.items() if hasattr(config, name)}
    if isinstance(getattr(config, "conv_dim", None), (list, tuple)):
        fixed["conv_dim"] = [_CONVOLUTIONS] * len(config.conv_dim)
    return fixed


def write_processor(folder: Path, tokenizer: Path, task: str) -> None:
    """The files of a tokenizer: a small one of characters where sound is spelt out, else the given one."""
    if task == CTC:
        (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(CHARACTERS)}))
        said: dict[str, Any] = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": "<pad>", "unk_token": "<unk>"}
        said |= {"bos_token": "<s>", "eos_token": "</s>", "word_delimiter_token": "|", "do_lower_case": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
        return
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def write_features(folder: Path, config: Any) -> None:
    """How sound is prepared for the model, in the words of its own family."""
    from transformers import FEATURE_EXTRACTOR_MAPPING, SeamlessM4TFeatureExtractor

    width = getattr(config, "feature_projection_input_dim", None)
    if width is not None:  # two frames of SeamlessM4T's are one; its name is in the files of trained models only
        sizes = {"feature_size": width // 2, "num_mel_bins": width // 2, "stride": 2}
        SeamlessM4TFeatureExtractor(**sizes).save_pretrained(folder)
        return
    parts = (config, *(getattr(config, name) for name in config.sub_configs))
    extractor: Any = next(FEATURE_EXTRACTOR_MAPPING[type(p)] for p in parts if type(p) in FEATURE_EXTRACTOR_MAPPING)
    bands = next((part.num_mel_bins for part in parts if getattr(part, "num_mel_bins", None)), None)
    extractor(**({"feature_size": bands} if bands else {})).save_pretrained(folder)
