"""A model folder -> one for OpenVINO or ONNX Runtime: `python optimum_model.py ENGINE FOLDER OUT [int8|int4]`.

Runs in the peer's environment. nncf compresses the weights as optimum-intel asks it to: int8 by rows, int4 in blocks of
128.
"""

from __future__ import annotations

import sys


def main() -> None:
    engine, folder, out, *form = sys.argv[1:]
    if engine == "openvino":
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

        bits = {"int8": 8, "int4": 4}[form[0]]
        weights = OVWeightQuantizationConfig(bits=bits, sym=True, **({"group_size": 128} if bits == 4 else {}))
        model = OVModelForCausalLM.from_pretrained(folder, export=True, quantization_config=weights, compile=False)
    else:
        from optimum.onnxruntime import ORTModelForCausalLM

        model = ORTModelForCausalLM.from_pretrained(folder, export=True)
    model.save_pretrained(out)


if __name__ == "__main__":
    main()
