"""One module per kind of step; each has `run(work)`."""
