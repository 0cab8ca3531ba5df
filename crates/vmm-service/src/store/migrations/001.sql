-- The first shape of the state file.
--
-- Specs and operations are the JSON of the REST contract: what was acknowledged
-- is what is kept, and the file stays readable with any SQLite client.

CREATE TABLE vms (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    spec             TEXT NOT NULL,
    machine_type     TEXT NOT NULL,
    state            TEXT NOT NULL,
    state_detail     TEXT,
    created_at       TEXT NOT NULL,
    state_changed_at TEXT NOT NULL
) STRICT;

-- No foreign key to the VM: the operation that deletes it outlives it.
CREATE TABLE operations (
    id         TEXT PRIMARY KEY,
    vm         TEXT NOT NULL,
    ended_us   INTEGER,
    created_us INTEGER NOT NULL,
    operation  TEXT NOT NULL
) STRICT;

CREATE INDEX operations_by_vm ON operations (vm, ended_us);
CREATE INDEX operations_unfinished ON operations (created_us) WHERE ended_us IS NULL;

CREATE TABLE idempotency (
    key        TEXT PRIMARY KEY,
    body_hash  TEXT NOT NULL,
    vm         TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    created_us INTEGER NOT NULL
) STRICT;

CREATE INDEX idempotency_by_age ON idempotency (created_us);
CREATE INDEX idempotency_by_vm ON idempotency (vm);
