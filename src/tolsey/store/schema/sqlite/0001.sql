CREATE TABLE ledger (
    id          TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE owner (
    n           INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT;

CREATE TABLE config (
    n           INTEGER PRIMARY KEY,
    generation  TEXT    NOT NULL UNIQUE,
    at          INTEGER NOT NULL
) STRICT;

CREATE TABLE account (
    n           INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    unit        TEXT    NOT NULL,
    parent      TEXT,
    label       TEXT,
    "limit"     INTEGER CHECK ("limit" >= 0),
    spent       INTEGER NOT NULL CHECK (spent >= 0),
    held        INTEGER NOT NULL CHECK (held >= 0),
    calls       INTEGER NOT NULL CHECK (calls >= 0),
    open        INTEGER NOT NULL CHECK (open >= 0),
    opened_at   INTEGER NOT NULL,
    UNIQUE (id, unit),
    CHECK ("limit" IS NULL OR spent + held <= "limit")
) STRICT;

CREATE INDEX account_parent ON account (parent, unit);

CREATE TABLE entry (
    n           INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    hold        TEXT,
    leaf        INTEGER REFERENCES account (n),
    amount      INTEGER NOT NULL CHECK (amount >= 0),
    owner       INTEGER NOT NULL REFERENCES owner (n),
    config      INTEGER REFERENCES config (n),
    note        TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX entry_reserve ON entry (hold) WHERE kind = 'reserve';
CREATE UNIQUE INDEX entry_resolution ON entry (hold) WHERE kind IN ('settle', 'void', 'expire');

-- The open holds: what the entries amount to, kept beside them by the triggers below.
CREATE TABLE hold (
    id          TEXT    PRIMARY KEY,
    leaf        INTEGER NOT NULL REFERENCES account (n),
    amount      INTEGER NOT NULL,
    owner       INTEGER NOT NULL REFERENCES owner (n),
    at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER hold_opens AFTER INSERT ON entry WHEN new.kind = 'reserve' BEGIN
    INSERT INTO hold VALUES (new.hold, new.leaf, new.amount, new.owner, new.at);
END;

CREATE TRIGGER hold_closes AFTER INSERT ON entry WHEN new.kind IN ('settle', 'void', 'expire') BEGIN
    DELETE FROM hold WHERE id = new.hold;
END;
