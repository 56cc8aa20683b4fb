"""A turn of a loop over tokens, followed node by node -> what a chunk of tokens does at once."""

from qeffbuild.graph.chunked.chunks import Chunks
from qeffbuild.graph.chunked.rows import NotChunked

__all__ = ["Chunks", "NotChunked"]
