-- One row at most: two that saw a new server at once could each write one. Without any, it is seen for the first time.

DELETE FROM server;
ALTER TABLE server ADD COLUMN alone boolean PRIMARY KEY DEFAULT true CHECK (alone);
