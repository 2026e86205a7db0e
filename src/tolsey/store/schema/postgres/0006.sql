-- The seal: every entry has its place in the log of its owner, and a hash that follows from the one before it there.

ALTER TABLE owner ADD COLUMN entries bigint NOT NULL DEFAULT 0;
ALTER TABLE owner ADD COLUMN head bytea;
ALTER TABLE entry ADD COLUMN place bigint NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN seal bytea NOT NULL DEFAULT '';

-- Signed statements of the heads of logs, and how many entries of each log the last one that names it has.
CREATE TABLE checkpoint (
    n           bigint  PRIMARY KEY,
    document    bytea   NOT NULL
);

CREATE TABLE checkpointed (
    log         bigint  PRIMARY KEY,
    entries     bigint  NOT NULL
);

-- What was rolled up of a log: which places, and the seals before and behind.
CREATE TABLE gap (
    log         bigint  NOT NULL,
    first       bigint  NOT NULL,
    last        bigint  NOT NULL,
    before      bytea   NOT NULL,
    after       bytea   NOT NULL,
    PRIMARY KEY (log, first)
);
