"""`python -m proofs`: check the laws on the model."""

from proofs.model import main

raise SystemExit(main())
