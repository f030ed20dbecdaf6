"""Benchmarks of speed and memory, compared with other systems and with the limits of the hardware.

Run from a clone: `python -m benchmarks.real_size --work DIR`. Needs the extras `export` and `dev`.
"""
