"""Names that a rendered folder has, whatever compiler reads it."""

GRAPH = "graph.onnx"
WEIGHTS = "graph.data"  # all weights in one file, once they are laid out for the compiler
PROGRAMS = "qpc"  # the folder of what is compiled
PROGRAM = "programqpc.bin"  # what either compiler leaves there
SPECIALIZATIONS = "specializations.json"
IMAGE = "image"  # the kind of states that hold what was seen
IMAGE_FACTS = "image.json"  # of a model that sees: images of which size, and what becomes of one
COMMANDS = "commands.json"  # one argument list per command
