"""What bundles for a GPU promise, held against one: right numbers, speed, memory, errors.

Run from a clone on a machine with an NVIDIA GPU: `python -m benchmarks.cuda --work DIR`. Needs the extras
`gpu` and `export`, and takes eight minutes at most.
"""
