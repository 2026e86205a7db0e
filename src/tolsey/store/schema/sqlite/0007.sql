-- Prefixes that are revoked: of each the last entry that revoked it, if none has taken that back. `revocations` counts
-- the changes, so that who remembers the list knows when to read it again.

ALTER TABLE ledger ADD COLUMN revocations INTEGER NOT NULL DEFAULT 0;

CREATE TABLE revocation (
    id          TEXT    PRIMARY KEY,
    since       INTEGER NOT NULL,
    expires     INTEGER,
    note        TEXT    NOT NULL,
    entry       INTEGER NOT NULL REFERENCES entry (n)
) STRICT, WITHOUT ROWID;
