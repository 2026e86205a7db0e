-- Windows, counts and rates; grants and refunds; extended holds; idempotency keys; moving to another engine.

ALTER TABLE ledger ADD COLUMN moved_to TEXT;

CREATE TABLE account_2 (
    n           INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    unit        TEXT    NOT NULL,
    parent      TEXT,
    label       TEXT,
    "limit"     INTEGER CHECK ("limit" >= 0),
    period      TEXT    CHECK (period = 'hour' OR period = 'day' OR period = 'week' OR period = 'month'),
    granted     INTEGER NOT NULL CHECK (granted >= 0),
    spent       INTEGER NOT NULL CHECK (spent >= 0),
    held        INTEGER NOT NULL CHECK (held >= 0),
    calls       INTEGER NOT NULL CHECK (calls >= 0),
    open        INTEGER NOT NULL CHECK (open >= 0),
    opened_at   INTEGER NOT NULL,
    UNIQUE (id, unit),
    CHECK ("limit" IS NULL OR period IS NOT NULL OR spent + held <= "limit" + granted)
) STRICT;

INSERT INTO account_2
    SELECT n, id, unit, parent, label, "limit", NULL, 0, spent, held, calls, open, opened_at FROM account;

DROP TABLE account;

ALTER TABLE account_2 RENAME TO account;

CREATE INDEX account_parent ON account (parent, unit);

-- An account with a period, in one of its windows. The limit is the account's, kept here for the check.
CREATE TABLE window (
    account     INTEGER NOT NULL REFERENCES account (n),
    start       INTEGER NOT NULL,
    "limit"     INTEGER NOT NULL,
    spent       INTEGER NOT NULL CHECK (spent >= 0),
    held        INTEGER NOT NULL CHECK (held >= 0),
    granted     INTEGER NOT NULL CHECK (granted >= 0),
    PRIMARY KEY (account, start),
    CHECK (spent + held <= "limit" + granted)
) STRICT, WITHOUT ROWID;

-- The instant at which the calls under a rate are all paid off (GCRA's theoretical arrival time).
CREATE TABLE rate (
    id          TEXT    PRIMARY KEY,
    tat         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX rate_over ON rate (tat);

CREATE TABLE claim (
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    request     TEXT    NOT NULL,
    hold        TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    done        TEXT,
    body        TEXT    NOT NULL,
    response    BLOB,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX claim_over ON claim (at);
CREATE INDEX claim_hold ON claim (hold);

ALTER TABLE entry ADD COLUMN counter INTEGER REFERENCES account (n);
ALTER TABLE entry ADD COLUMN until INTEGER;

-- With OR: for IN and more than two values SQLite fills a temporary table for each row that it looks at.
DROP INDEX entry_resolution;
CREATE UNIQUE INDEX entry_resolution ON entry (hold) WHERE kind = 'settle' OR kind = 'void' OR kind = 'expire';
CREATE INDEX entry_later ON entry (hold) WHERE kind = 'extend' OR (kind = 'refund' OR kind = 'annul');

-- Written beside the entries now: a trigger costs more than the rows do.
DROP TRIGGER hold_opens;
DROP TRIGGER hold_closes;

CREATE TABLE hold_2 (
    id          TEXT    PRIMARY KEY,
    leaf        INTEGER REFERENCES account (n),
    counter     INTEGER REFERENCES account (n),
    amount      INTEGER NOT NULL,
    owner       INTEGER NOT NULL REFERENCES owner (n),
    at          INTEGER NOT NULL,
    until       INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO hold_2 SELECT id, leaf, NULL, amount, owner, at, NULL FROM hold;

DROP TABLE hold;

ALTER TABLE hold_2 RENAME TO hold;

