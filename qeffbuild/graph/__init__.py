"""Graphs as values: reading and writing them, their weights by reference, and the passes that lowerings call."""
