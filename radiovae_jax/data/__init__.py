"""Radio maps from files to batches: units, data sets, splits, and the Grain pipeline.

A *source* is a random-access list of records. Every source has `len(source)`,
`source[i]`, `source.shape` (the (h, w, c) of the stored images) and
`source.summary()`. A record is a dict of NumPy arrays: "gray" [h, w, c] (uint8 as
stored, or float32 already scaled to f in [0, 1]), "name", and whichever other
images were asked for ("buildings", "antenna", ...).

What is not there is a FileNotFoundError, anything else that is wrong with a file, a
name or a number a ValueError. Both name it and the remedy; sources raise at the start
what can be known at the start.
"""
