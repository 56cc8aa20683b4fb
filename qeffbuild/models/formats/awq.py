"""AWQ in its gemm form: integers of 4 bits packed along the outputs, scales and zero points for groups of inputs."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.models.formats.door import REAL, WORDS, Door, Encoded


def awq(door: Door) -> Iterator[tuple[str, Encoded]]:
    bits, group = door.number("bits" if "bits" in door.said else "w_bit", (4,)), door.group_size()
    version = str(door.said.get("version", "gemm")).lower()
    if version != "gemm":
        door.unsupported(f"awq version {version:.40}", "the checkpoint in its gemm version")
    for base, _ in door.ending(".qweight"):
        columns, words = door.expect_matrix(f"{base}.qweight", WORDS)
        parts = door.parts(base, {"numbers": "qweight", "zeros": "qzeros", "scales": "scales"})
        rows, size = words * 32 // bits, group or columns
        groups = -(-columns // size)
        door.expect(parts["scales"], (groups, rows), f"says group_size {group or -1}", REAL)
        door.expect(parts["zeros"], (groups, words), f"says {bits} bits", WORDS)
        options = {"bits": bits, "group_size": size}
        yield f"{base}.weight", Encoded(format="awq", shape=(rows, columns), parts=parts, options=options)
