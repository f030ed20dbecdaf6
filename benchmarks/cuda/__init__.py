"""Tests and timing of bundles on an NVIDIA GPU.

Run from a clone: `python -m benchmarks.cuda --work DIR`. Needs the extras `gpu` and `export`, psutil and
pytest, and takes eight minutes at most.
"""
