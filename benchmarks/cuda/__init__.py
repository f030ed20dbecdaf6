"""Tests and timing of bundles on an NVIDIA GPU.

Run them from a clone of the repository: `python -m benchmarks.cuda --work DIR`. They need the extras `gpu`
and `export`, psutil and pytest, and take at most eight minutes.
"""
