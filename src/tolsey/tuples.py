"""NamedTuples, made quickly: `make(Entry, (...))` is `Entry(...)` with every field given, in a third of the time.

A NamedTuple's own constructor is a Python function that is not compiled. What every call makes is made with this.
"""

from typing import Final

make: Final = tuple.__new__
