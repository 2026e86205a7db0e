"""The ledger's laws, checked on small models: see docs/proofs.md."""
