-- What observe mode lets through: counted apart, and without a limit.

ALTER TABLE account ADD COLUMN observed bigint NOT NULL DEFAULT 0 CHECK (observed >= 0);
ALTER TABLE "window" ADD COLUMN observed bigint NOT NULL DEFAULT 0 CHECK (observed >= 0);
ALTER TABLE rolled ADD COLUMN observed bigint NOT NULL DEFAULT 0;
ALTER TABLE rolled_window ADD COLUMN observed bigint NOT NULL DEFAULT 0;

-- What was counted of the calls of one hour, for the reports: `source` is the process that counted, `key` says of what
-- (both JSON). It may be lost without harm to any balance.
CREATE TABLE tally (
    hour        bigint  NOT NULL,
    source      text    COLLATE "C" NOT NULL,
    key         text    COLLATE "C" NOT NULL,
    counts      text    NOT NULL,
    PRIMARY KEY (hour, source, key)
);
