-- Alerts, until they are delivered and for a while after. The id says what an alert is about, so that it is told once.

CREATE TABLE alert (
    id          text    COLLATE "C" PRIMARY KEY,
    at          bigint  NOT NULL,
    kind        text    NOT NULL,
    body        text    NOT NULL,
    until       bigint,
    tries       bigint  NOT NULL,
    next        bigint  NOT NULL,
    state       text    NOT NULL CHECK (state IN ('waiting', 'sent', 'dead')),
    fault       text    NOT NULL
);

CREATE INDEX alert_waiting ON alert (next) WHERE state = 'waiting';
