-- One row for each request. Times are microseconds (UTC since 1970, or lengths), money is billionths of a US dollar.
-- NULL means not known, or not known yet; `outcome` is NULL while the request runs.
CREATE TABLE requests (
    id                    TEXT PRIMARY KEY NOT NULL,
    -- The process that admitted it: the name of its journal.
    owner                 TEXT NOT NULL,
    time                  INTEGER NOT NULL,
    key_id                TEXT,
    model                 TEXT NOT NULL,
    backend               TEXT,
    locality              TEXT,
    reason                TEXT NOT NULL,
    policy_hash           TEXT NOT NULL,
    input_tokens          INTEGER,
    cached_input_tokens   INTEGER,
    output_tokens         INTEGER,
    reasoning_tokens      INTEGER,
    measured              INTEGER,
    ttft                  INTEGER,
    duration              INTEGER,
    cost                  INTEGER,
    counterfactual_cost   INTEGER,
    counterfactual_price  TEXT,
    energy_joules         REAL,
    outcome               TEXT,
    numerics              TEXT
) STRICT;

CREATE INDEX requests_time ON requests (time);
CREATE INDEX requests_running ON requests (owner) WHERE outcome IS NULL;

-- The backends that were tried for a request, in the order of `position`.
CREATE TABLE attempts (
    request_id            TEXT NOT NULL,
    position              INTEGER NOT NULL,
    backend               TEXT NOT NULL,
    locality              TEXT NOT NULL,
    why                   TEXT NOT NULL,
    bytes_out             INTEGER NOT NULL,
    outcome               TEXT,
    input_tokens          INTEGER,
    cached_input_tokens   INTEGER,
    output_tokens         INTEGER,
    reasoning_tokens      INTEGER,
    measured              INTEGER,
    cost                  INTEGER,
    price                 TEXT,
    duration              INTEGER,
    PRIMARY KEY (request_id, position)
) STRICT, WITHOUT ROWID;
