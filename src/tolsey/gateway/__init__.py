"""The passage of one call, and the HTTP around it."""
