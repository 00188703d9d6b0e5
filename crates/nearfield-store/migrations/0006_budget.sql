-- How long what is kept of a request is kept, as its rule names it, and what was set aside for it of its key's month: it
-- counts as spent until the cost is known.
ALTER TABLE requests ADD COLUMN retention TEXT;
ALTER TABLE requests ADD COLUMN reserved INTEGER;
CREATE INDEX requests_key_time ON requests (key_id, time) WHERE key_id IS NOT NULL;
