"""How fast the bundles are, how much memory they take, and how close that is to what the machine can do.

Run from a clone: `python -m benchmarks.real_size --work DIR`. Needs the extras `export` and `dev`.
"""
