"""GPTQ: integers packed along the inputs, scales and zero points for groups of inputs, which may be permuted."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.models.formats.door import REAL, WORDS, Door, Encoded


def gptq(door: Door) -> Iterator[tuple[str, Encoded]]:
    bits = door.number("bits", (2, 3, 4, 8))
    door.number("group_size")
    group, version = door.group_size(), door.said.get("checkpoint_format", "gptq")
    if version not in ("gptq", "gptq_v2"):
        door.unsupported(f"checkpoint_format {version!r:.40}", "read are gptq and gptq_v2")
    for base, _ in door.ending(".qweight"):
        packed, rows = door.expect_matrix(f"{base}.qweight", WORDS)
        roles = {"numbers": "qweight", "zeros": "qzeros", "scales": "scales"}
        parts = door.parts(base, roles, {"group": "g_idx"})
        columns = packed * 32 // bits
        size = group or columns
        groups = -(-columns // size)
        door.expect(parts["scales"], (groups, rows), f"says group_size {group or -1}", REAL)
        door.expect(parts["zeros"], (groups, rows * bits // 32), f"says {bits} bits", WORDS)
        parts = door.without_plain_groups(parts, columns, size)
        options = {"bits": bits, "group_size": size, "permuted": "group" in parts}
        options |= {"zero_offset": int(version == "gptq"), "symmetric": bool(door.said.get("sym", True))}
        yield f"{base}.weight", Encoded(format="gptq", shape=(rows, columns), parts=parts, options=options)
