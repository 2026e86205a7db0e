"""The command line. `main.py` has the list of commands; each is declared in a module of its own."""
