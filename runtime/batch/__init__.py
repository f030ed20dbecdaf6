"""Millions of pictures: inputs counted in a fixed order, answered in batches, written in parts.

The ordinal of an input says in which part its row stands and where, so how far a run got is the number of
its rows, and nothing else has to be remembered.
"""
