-- Alerts, until they are delivered and for a while after. The id says what an alert is about, so that it is told once.

CREATE TABLE alert (
    id          TEXT    PRIMARY KEY,
    at          INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    until       INTEGER,
    tries       INTEGER NOT NULL,
    next        INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('waiting', 'sent', 'dead')),
    fault       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX alert_waiting ON alert (next) WHERE state = 'waiting';
