-- Entries that were rolled up: how many, their hash, and what they add up to. No open hold is among them.

CREATE TABLE rollup (
    n           INTEGER PRIMARY KEY,
    up_to       INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    entries     INTEGER NOT NULL,
    sha256      TEXT    NOT NULL,
    made_at     INTEGER NOT NULL,
    note        TEXT    NOT NULL
) STRICT;

CREATE TABLE rolled (
    account     INTEGER PRIMARY KEY REFERENCES account (n),
    spent       INTEGER NOT NULL,
    calls       INTEGER NOT NULL,
    granted     INTEGER NOT NULL
) STRICT;

CREATE TABLE rolled_window (
    account     INTEGER NOT NULL REFERENCES account (n),
    start       INTEGER NOT NULL,
    spent       INTEGER NOT NULL,
    granted     INTEGER NOT NULL,
    PRIMARY KEY (account, start)
) STRICT, WITHOUT ROWID;
