-- What observe mode lets through: counted apart, and without a limit.

ALTER TABLE account ADD COLUMN observed INTEGER NOT NULL DEFAULT 0 CHECK (observed >= 0);
ALTER TABLE window ADD COLUMN observed INTEGER NOT NULL DEFAULT 0 CHECK (observed >= 0);
ALTER TABLE rolled ADD COLUMN observed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rolled_window ADD COLUMN observed INTEGER NOT NULL DEFAULT 0;

-- What was counted of the calls of one hour, for the reports: `source` is the process that counted, `key` says of what
-- (both JSON). It may be lost without harm to any balance.
CREATE TABLE tally (
    hour        INTEGER NOT NULL,
    source      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    counts      TEXT    NOT NULL,
    PRIMARY KEY (hour, source, key)
) STRICT, WITHOUT ROWID;
