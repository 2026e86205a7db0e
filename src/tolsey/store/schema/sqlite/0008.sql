-- The seal: every entry has its place in the log of its owner, and a hash that follows from the one before it there.

ALTER TABLE owner ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE owner ADD COLUMN head BLOB;
ALTER TABLE entry ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN seal BLOB NOT NULL DEFAULT x'';

-- Signed statements of the heads of logs, and how many entries of each log the last one that names it has.
CREATE TABLE checkpoint (
    n           INTEGER PRIMARY KEY,
    document    BLOB    NOT NULL
) STRICT;

CREATE TABLE checkpointed (
    log         INTEGER PRIMARY KEY REFERENCES owner (n),
    entries     INTEGER NOT NULL
) STRICT;

-- What was rolled up of a log: which places, and the seals before and behind.
CREATE TABLE gap (
    log         INTEGER NOT NULL REFERENCES owner (n),
    first       INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    before      BLOB    NOT NULL,
    after       BLOB    NOT NULL,
    PRIMARY KEY (log, first)
) STRICT, WITHOUT ROWID;
