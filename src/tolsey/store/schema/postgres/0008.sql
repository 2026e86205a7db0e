-- Who opened an account by name (a minter, a payment), and when a call last changed it; NULL where nobody knows.

ALTER TABLE account ADD COLUMN opened_by text;
ALTER TABLE account ADD COLUMN seen_at bigint;

UPDATE account SET opened_by = opening.note
FROM (SELECT DISTINCT ON (leaf) leaf, note FROM entry WHERE kind IN ('open', 'pay') ORDER BY leaf, n) AS opening
WHERE opening.leaf = account.n;
