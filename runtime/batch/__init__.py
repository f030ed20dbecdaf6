"""Batch runs over millions of images: inputs in a fixed order, answered in batches, written in part files.

The position of an input determines the part and line of its row. The progress of a run is therefore the
number of rows that exist, and no other state is stored.
"""
