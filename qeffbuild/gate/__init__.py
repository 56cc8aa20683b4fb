"""What a graph computes, held against PyTorch: how far apart they are, how far they may be, and where it begins.

Reading order: `prompts` and `reference` (what PyTorch says, once per model), `feeds` and `stream` (what a graph says,
however large its weights), `figures` (the comparison), `layers` (where a difference begins).
"""
