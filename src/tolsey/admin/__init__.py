"""The admin listener, which is never the data port."""
