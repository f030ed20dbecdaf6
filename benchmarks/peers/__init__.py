"""Other tools that run a Gemma decoder on a CPU, measured beside the bundles: same sizes, threads and tokens.

python -m benchmarks.peers --work DIR

Each tool has an environment of its own, made from a file in requirements/. llama_cpp, gguf_file, genai and
optimum_onnx run there: they import the standard library, numpy and what that file installs.
"""
