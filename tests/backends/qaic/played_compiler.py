"""In the place of the compiler: its program is the graph, for a runtime that drops what the device drops."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dropped_writes import drop_writes


def compile_here(words: list[str]) -> None:
    said = dict(word.partition("=")[::2] for word in words)
    out = Path(said["-aic-binary-dir"])
    out.mkdir()
    drop_writes(Path(said["-m"]), out / "graph.onnx")
    taken = {"graph.data": "graph.data", said["-network-specialization-config"]: "specializations.json"}
    taken |= {name: "custom_io.yaml" for name in [said.get("-custom-IO-list-file")] if name}
    for name, kept in taken.items():
        if Path(name).is_file():
            shutil.copyfile(name, out / kept)
    (out / "programqpc.bin").write_text(" ".join(words))


if __name__ == "__main__":
    compile_here(sys.argv[1:])
