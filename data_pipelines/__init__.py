"""From raw recordings to batches: readers, preparation, windows, splits and the loader."""
