"""Macaroons, what their caveats mean, and what a chain of them amounts to."""
