-- What opens and closes holds in one index: a group writes half as many of its pages as of two.

DROP INDEX entry_reserve;
DROP INDEX entry_resolution;

-- With the resolutions first: only so does SQLite see that a query for them is answered by this index.
CREATE UNIQUE INDEX entry_hold ON entry (hold, kind = 'reserve')
    WHERE (kind = 'settle' OR kind = 'void' OR kind = 'expire') OR kind = 'reserve';
