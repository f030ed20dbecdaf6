"""Other tools that run a Gemma decoder on a CPU, compared with the bundles: same sizes, threads and tokens.

python -m benchmarks.peers --work DIR

Each tool has an environment, made from a file in requirements/. llama_cpp, gguf_file, genai and optimum_onnx
run in these environments: they import the standard library, numpy and what the file installs.
"""
