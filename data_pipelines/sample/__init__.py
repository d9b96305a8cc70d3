"""The built-in sample: synthetic people, and writers that lay them out as releases of real data sets."""
