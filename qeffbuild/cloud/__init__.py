"""QEfficient's own command lines: `python -m qeffbuild.cloud.infer` takes what `QEfficient.cloud.infer` takes."""
