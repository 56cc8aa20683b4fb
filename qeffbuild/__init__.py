"""qeffbuild: a Makefile for models."""

__version__ = "0.1.0"
