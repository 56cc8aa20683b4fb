"""The names of files that a rendered folder has, whatever compiler reads it."""

GRAPH = "graph.onnx"
WEIGHTS = "graph.data"  # all weights in one file, once they are laid out for the compiler
SPECIALIZATIONS = "specializations.json"
COMMANDS = "commands.json"  # one argument list per command
