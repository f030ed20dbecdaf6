"""Comparison of bundles with other tools that run a Gemma decoder on a CPU.

python -m benchmarks.peers --work DIR

All systems have the same model sizes, threads and numbers of tokens. Each tool has a virtual environment,
installed from a file in requirements/. The modules llama_cpp, gguf_file, genai and optimum_onnx run in these
environments, so they import only the standard library, numpy and the packages of that file.
"""
