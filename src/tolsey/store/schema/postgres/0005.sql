-- Prefixes that are revoked: of each the last entry that revoked it, if none has taken that back. `revocations` counts
-- the changes, so that who remembers the list knows when to read it again.

ALTER TABLE ledger ADD COLUMN revocations bigint NOT NULL DEFAULT 0;

CREATE TABLE revocation (
    id          text    COLLATE "C" PRIMARY KEY,
    since       bigint  NOT NULL,
    expires     bigint,
    note        text    NOT NULL,
    entry       bigint  NOT NULL
);
