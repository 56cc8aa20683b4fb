"""Overrides and YAML files -> BuildSpec, checked once at the door."""
