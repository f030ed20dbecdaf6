"""Benchmarks of speed and memory, compared with other systems and with the limits of the hardware.

Run them from a clone of the repository: `python -m benchmarks.real_size --work DIR`. They need the extras
`export` and `dev`.
"""
