"""What is special about one family: a file named as its folder in transformers, with replacements for a trace.

`REPLACED` maps names in the family's modeling file (a function, or Class.method) to what takes their place: the same
numbers in operations that a graph can hold. The self-check compares each with the family's own code.
"""

from __future__ import annotations
