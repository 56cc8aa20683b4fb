"""Outcomes and measurements -> tables, JSON, progress: what a reader sees of the other rooms."""
