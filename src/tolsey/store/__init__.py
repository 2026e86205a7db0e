"""Where the ledger is kept: the rules under a real disk."""
