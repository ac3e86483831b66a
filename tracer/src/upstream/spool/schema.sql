-- One row: what the spool knows of itself. Seconds of its own clock, which runs with the host's boot
-- clock while tracer runs or the same boot goes on: a wall clock that is set ages nothing.
CREATE TABLE spool (
    bytes     INTEGER NOT NULL,
    lost      INTEGER NOT NULL, -- records given up without an ack, ever
    told      INTEGER NOT NULL, -- of those: told by a node.gap
    clock_s   INTEGER NOT NULL, -- the spool's clock …
    boot_s    INTEGER NOT NULL, -- … when the boot clock said this …
    boot_id   TEXT    NOT NULL  -- … in this boot
) STRICT;
INSERT INTO spool VALUES (0, 0, 0, 0, 0, '');

-- Streams, in the order of their appearance.
CREATE TABLE stream (
    id        INTEGER PRIMARY KEY,
    uuid      TEXT    NOT NULL UNIQUE,
    last_seq  INTEGER NOT NULL
) STRICT;

-- Records that some upstream has not acked; place: stream and number, see place.rs.
CREATE TABLE record (
    place     INTEGER PRIMARY KEY,
    at_s      INTEGER NOT NULL, -- by the spool's clock
    line      BLOB    NOT NULL
) STRICT;

-- Up to where each upstream has acked.
CREATE TABLE upstream (
    name      TEXT    PRIMARY KEY,
    place     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Containers that are not removed, as of each stream's last record.
CREATE TABLE container (
    stream    INTEGER NOT NULL,
    instance  TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    name      TEXT,
    version   INTEGER NOT NULL,
    line      BLOB    NOT NULL,
    UNIQUE (stream, instance)
) STRICT;
