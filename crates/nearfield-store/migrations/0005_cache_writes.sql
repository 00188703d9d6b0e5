-- Tokens that a provider wrote to its cache, by how long they live there, and tokens of its total that it names nowhere.
ALTER TABLE requests ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE requests ADD COLUMN cache_write_1h_tokens INTEGER;
ALTER TABLE requests ADD COLUMN unattributed_tokens INTEGER;
ALTER TABLE attempts ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE attempts ADD COLUMN cache_write_1h_tokens INTEGER;
ALTER TABLE attempts ADD COLUMN unattributed_tokens INTEGER;
