"""How other tools store quantized weights: one file for each `quant_method`, read from names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from qeffbuild.models.formats.awq import awq
from qeffbuild.models.formats.bitsandbytes import bitsandbytes
from qeffbuild.models.formats.compressed_tensors import compressed_tensors
from qeffbuild.models.formats.door import Door, Encoded
from qeffbuild.models.formats.fp8 import fp8
from qeffbuild.models.formats.gguf import gguf
from qeffbuild.models.formats.gptq import gptq
from qeffbuild.models.formats.mxfp4 import mxfp4

METHODS: Mapping[str, Callable[[Door], Iterator[tuple[str, Encoded]]]] = {
    "awq": awq,
    "bitsandbytes": bitsandbytes,
    "compressed-tensors": compressed_tensors,
    "fp8": fp8,
    "gguf": gguf,
    "gptq": gptq,
    "mxfp4": mxfp4,
}
