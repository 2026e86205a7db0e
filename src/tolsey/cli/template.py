"""The config that `tolsey init` writes."""

from typing import Final

TEMPLATE: Final = """\
# Tolsey's config. `tolsey check` says what is wrong with it, and where.
# Relative paths are relative to this file. Unknown keys are errors.

[server]
host = "127.0.0.1"
port = 8402
workers = 1
mode = "enforce"                       # the default for routes; "observe" only counts, "public" asks for no token

[admin]                                # its API and dashboard, never on the data port
host = "127.0.0.1"
port = 8403

[keys]
path = "data/keys"                     # the keyring; mode 0600

[ledger]
url = "sqlite:///data/ledger.db"
durability = "full"                    # on disk before forwarding; "normal" may lose the last calls in a power cut

# [[upstream]]
# name = "search"
# url = "http://127.0.0.1:9000"
# headers = { Authorization = "Bearer ${SEARCH_API_KEY}" }     # from the environment; never shown to agents

# [[route]]
# path = "/api/v1/search"              # `*` is one segment, a final `/*` all that is below
# methods = ["GET"]                    # ["*"] is every method
# upstream = "search"
# price = "0.01 USD"
"""
"""What `tolsey init` writes: every key of it has its default, and there is no route yet."""
