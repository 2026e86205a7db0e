"""NamedTuples, made quickly: `make(Entry, (...))` is `Entry(...)` with every field given, in half the time.

A NamedTuple's own constructor is a Python function that is not compiled. What every call makes is made with this, and
nothing else: neither the number of the fields nor their types are looked at.
"""

from typing import Final

make: Final = tuple.__new__
