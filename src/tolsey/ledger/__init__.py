"""The ledger's rules: pure, and the same for every store."""
