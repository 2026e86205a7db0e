"""The bench: Tolsey against real proxies, on the same work, in one run.

``python -m bench --help`` tells how to call it. Only ratios within one run mean anything: machines differ and are
noisy. Every file is small: ``contestants`` says who runs, ``speed`` how, ``report`` what is made of it.
"""


class BenchError(Exception):
    """The bench cannot go on; the message says why, for a human."""


class Missing(BenchError):
    """Something that the bench needs is not installed and cannot be."""


class Wrong(BenchError):
    """A contestant did not do its work correctly, so its figures mean nothing."""
