-- Payments: an entry of kind 'pay' has the payment's hash in `hold`, and there is one for each hash.

CREATE UNIQUE INDEX entry_payment ON entry (hold) WHERE kind = 'pay';
