-- Who opened an account by name (a minter, a payment), and when a call last changed it; NULL where nobody knows.

ALTER TABLE account ADD COLUMN opened_by TEXT;
ALTER TABLE account ADD COLUMN seen_at INTEGER;

UPDATE account SET opened_by = opening.note
FROM (SELECT leaf, note, min(n) FROM entry WHERE kind IN ('open', 'pay') GROUP BY leaf) AS opening
WHERE opening.leaf = account.n;
