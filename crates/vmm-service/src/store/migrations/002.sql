-- Every row carries a seal, a checksum of all its other columns, and every table
-- a total of its rows and their seals: what SQLite's own checks cannot notice, a
-- byte that changed inside a value or a row that is gone, does not fit any more.
--
-- `seal` is a function of vmm-service (store/seal.rs). The triggers use none, so
-- that any SQLite client can still open the file.

ALTER TABLE vms ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;
ALTER TABLE idempotency ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;

-- What is remembered of the host: under `boot_id`, the boot in which a daemon last
-- ran here. The clock may be set; a boot keeps its id.
CREATE TABLE host (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    seal  INTEGER NOT NULL
) STRICT;

-- `seals` is all seals of the table in exclusive or, for which SQL has no word.
CREATE TABLE totals (
    name  TEXT PRIMARY KEY,
    rows  INTEGER NOT NULL,
    seals INTEGER NOT NULL
) STRICT;

INSERT INTO totals VALUES ('vms', (SELECT count(*) FROM vms), 0);
INSERT INTO totals VALUES ('operations', (SELECT count(*) FROM operations), 0);
INSERT INTO totals VALUES ('idempotency', (SELECT count(*) FROM idempotency), 0);
INSERT INTO totals VALUES ('host', 0, 0);

CREATE TRIGGER vms_added AFTER INSERT ON vms BEGIN
    UPDATE totals SET rows = rows + 1, seals = (seals | new.seal) & ~(seals & new.seal)
    WHERE name = 'vms';
END;
CREATE TRIGGER vms_changed AFTER UPDATE ON vms BEGIN
    UPDATE totals SET seals = (seals | old.seal) & ~(seals & old.seal) WHERE name = 'vms';
    UPDATE totals SET seals = (seals | new.seal) & ~(seals & new.seal) WHERE name = 'vms';
END;
CREATE TRIGGER vms_removed AFTER DELETE ON vms BEGIN
    UPDATE totals SET rows = rows - 1, seals = (seals | old.seal) & ~(seals & old.seal)
    WHERE name = 'vms';
END;

CREATE TRIGGER operations_added AFTER INSERT ON operations BEGIN
    UPDATE totals SET rows = rows + 1, seals = (seals | new.seal) & ~(seals & new.seal)
    WHERE name = 'operations';
END;
CREATE TRIGGER operations_changed AFTER UPDATE ON operations BEGIN
    UPDATE totals SET seals = (seals | old.seal) & ~(seals & old.seal) WHERE name = 'operations';
    UPDATE totals SET seals = (seals | new.seal) & ~(seals & new.seal) WHERE name = 'operations';
END;
CREATE TRIGGER operations_removed AFTER DELETE ON operations BEGIN
    UPDATE totals SET rows = rows - 1, seals = (seals | old.seal) & ~(seals & old.seal)
    WHERE name = 'operations';
END;

CREATE TRIGGER idempotency_added AFTER INSERT ON idempotency BEGIN
    UPDATE totals SET rows = rows + 1, seals = (seals | new.seal) & ~(seals & new.seal)
    WHERE name = 'idempotency';
END;
CREATE TRIGGER idempotency_changed AFTER UPDATE ON idempotency BEGIN
    UPDATE totals SET seals = (seals | old.seal) & ~(seals & old.seal) WHERE name = 'idempotency';
    UPDATE totals SET seals = (seals | new.seal) & ~(seals & new.seal) WHERE name = 'idempotency';
END;
CREATE TRIGGER idempotency_removed AFTER DELETE ON idempotency BEGIN
    UPDATE totals SET rows = rows - 1, seals = (seals | old.seal) & ~(seals & old.seal)
    WHERE name = 'idempotency';
END;

CREATE TRIGGER host_added AFTER INSERT ON host BEGIN
    UPDATE totals SET rows = rows + 1, seals = (seals | new.seal) & ~(seals & new.seal)
    WHERE name = 'host';
END;
CREATE TRIGGER host_changed AFTER UPDATE ON host BEGIN
    UPDATE totals SET seals = (seals | old.seal) & ~(seals & old.seal) WHERE name = 'host';
    UPDATE totals SET seals = (seals | new.seal) & ~(seals & new.seal) WHERE name = 'host';
END;
CREATE TRIGGER host_removed AFTER DELETE ON host BEGIN
    UPDATE totals SET rows = rows - 1, seals = (seals | old.seal) & ~(seals & old.seal)
    WHERE name = 'host';
END;

UPDATE vms SET seal = seal(
    'vms', id, name, spec, machine_type, state, state_detail, created_at, state_changed_at);
UPDATE operations SET seal = seal('operations', id, vm, ended_us, created_us, operation);
UPDATE idempotency SET seal = seal('idempotency', key, body_hash, vm, created_us);
