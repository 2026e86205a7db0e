-- Calls that somebody is asked about (approvals), and what was said to each; kept for a week after it is over.

CREATE TABLE question (
    id          TEXT    PRIMARY KEY,
    at          INTEGER NOT NULL,
    until       INTEGER NOT NULL,
    root        TEXT    NOT NULL,
    prefix_id   TEXT    NOT NULL,
    labels      TEXT    NOT NULL,
    ticket      TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    query       TEXT    NOT NULL,
    nano        INTEGER NOT NULL,
    unit        TEXT    NOT NULL,
    purpose     TEXT    NOT NULL,
    granted     INTEGER,
    answered    INTEGER,
    note        TEXT    NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
