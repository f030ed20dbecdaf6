"""Batch runs over millions of images, which are answered in batches and written to part files.

The inputs have a fixed order. The position of an input determines the part file and the line of its row. The
number of rows that exist is therefore the progress of a run, and no other state is stored.
"""
