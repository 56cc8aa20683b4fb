#!/bin/sh
# Compiles this folder for Cloud AI 100 by the QNN SDK. Run it where the SDK is installed.
set -eu
cd "$(dirname "$0")"
test -e model.safetensors || { echo "put the model's "model.safetensors" into this folder first" >&2; exit 3; }
mkdir -p qpc
/sdk/bin/x86_64-linux-clang/qairt-converter \
    --input_network \
    graph.onnx \
    --output_path \
    model.dlc \
    --config \
    custom_io_config.yaml \
    --float_bias_bitwidth \
    32 \
    --float_bitwidth \
    16 \
    --preserve_io_datatype \
    --onnx_skip_simplification \
    --target_backend \
    AIC
/sdk/bin/x86_64-linux-clang/qnn-context-binary-generator \
    --binary_file \
    qnngraph.serialized \
    --backend_binary \
    programqpc.bin \
    --output_dir \
    qpc \
    --backend \
    /sdk/lib/x86_64-linux-clang/libQnnAic.so \
    --dlc_path \
    model.dlc \
    --config_file \
    qnn_compiler_config.json \
    --log_level \
    error
