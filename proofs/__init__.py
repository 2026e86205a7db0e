"""Proofs that are run: a model of the ledger whose every state is visited."""
