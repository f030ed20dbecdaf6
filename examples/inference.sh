#!/bin/bash
# Ask a question about an image from the shell. Change the variables below, or set them in the environment:
#
#     bash examples/inference.sh
#     IMAGE=photo.jpg PROMPT="detect cat" MODEL=paligemma2-3b bash examples/inference.sh
#
# The default model is the included one; `paligemma-onnx demo --output demo-output` exports it.
set -euo pipefail

MODEL=${MODEL:-demo-output/bundle}         # folder that `paligemma-onnx export` wrote
IMAGE=${IMAGE:-export/demo/scene.png}      # JPEG, PNG, WebP, BMP, GIF or TIFF
PROMPT=${PROMPT:-caption en}               # a prompt that the model was trained with
MAX_TOKENS=${MAX_TOKENS:-100}              # of the answer
DO_SAMPLE=${DO_SAMPLE:-false}              # false: always the most likely token; true: sample
TEMPERATURE=${TEMPERATURE:-0.8}            # of sampling: lower is closer to the most likely token
TOP_P=${TOP_P:-0.9}                        # of sampling: keep the most likely tokens of this total probability
DEVICE=${DEVICE:-auto}                     # cpu, cuda, cuda:N, or auto

[ "$DO_SAMPLE" = true ] || TEMPERATURE=0

paligemma-onnx generate --model "$MODEL" --image "$IMAGE" --max-new-tokens "$MAX_TOKENS" \
    --temperature "$TEMPERATURE" --top-p "$TOP_P" --device "$DEVICE" "$PROMPT"
