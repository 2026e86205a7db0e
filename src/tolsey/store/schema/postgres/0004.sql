-- Calls that somebody is asked about (approvals), and what was said to each; kept for a week after it is over.

CREATE TABLE question (
    id          text    COLLATE "C" PRIMARY KEY,
    at          bigint  NOT NULL,
    until       bigint  NOT NULL,
    root        text    NOT NULL,
    prefix_id   text    NOT NULL,
    labels      text    NOT NULL,
    ticket      text    NOT NULL,
    method      text    NOT NULL,
    path        text    NOT NULL,
    query       text    NOT NULL,
    nano        bigint  NOT NULL,
    unit        text    NOT NULL,
    purpose     text    NOT NULL,
    granted     bigint,
    answered    bigint,
    note        text    NOT NULL DEFAULT ''
);
