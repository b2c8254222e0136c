-- One marker in every place of a data directory that can hold what a table once held.
-- A marker is zq7, the name of the place, and a number: long enough to be unlike anything else.
CREATE EXTENSION IF NOT EXISTS citext;

CREATE TABLE person (
    id integer PRIMARY KEY,
    email text UNIQUE,
    name text,
    city text,
    street text,
    notes text,
    bio text,
    profile jsonb,
    tags text[],
    nick citext
);
ALTER TABLE person ALTER COLUMN notes SET STORAGE EXTERNAL;
INSERT INTO person
SELECT n, 'zq7heap' || n || '@corp.invalid', 'zq7name' || n,
    'zq7common' || n % 3, 'zq7street' || n % 5, 'zq7toast' || n || repeat(md5(n::text), 200),
    'zq7packed' || n || repeat('a long story ', 800),
    jsonb_build_object('contact', jsonb_build_object('email', 'zq7json' || n || '@corp.invalid'), 'level', n % 7),
    ARRAY['zq7array' || n, 'plain'], ('zq7Citext' || n)::citext
FROM generate_series(1, 600) AS n;
CREATE INDEX person_name ON person (name);
CREATE STATISTICS person_places (mcv, dependencies) ON city, street FROM person;
ANALYZE person;

CREATE MATERIALIZED VIEW contact AS SELECT id, replace(email, 'zq7heap', 'zq7matview') AS email FROM person;
CREATE VIEW reachable AS SELECT id, email FROM person WHERE email IS NOT NULL;

CREATE TABLE visit (id integer, at date, who text) PARTITION BY RANGE (at);
CREATE TABLE visit_old PARTITION OF visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE visit_new PARTITION OF visit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
INSERT INTO visit SELECT n, date '2020-01-01' + n, 'zq7partition' || n FROM generate_series(1, 500) AS n;

CREATE TABLE animal (id integer, owner text);
CREATE TABLE dog (breed text) INHERITS (animal);
INSERT INTO animal SELECT n, 'zq7parent' || n FROM generate_series(1, 20) AS n;
INSERT INTO dog SELECT n, 'zq7child' || n, 'terrier' FROM generate_series(1, 20) AS n;

-- rows that are no more
UPDATE person SET name = 'zq7updated' || id;
UPDATE person SET name = 'zq7name' || id;
BEGIN;
INSERT INTO person (id, email) SELECT 20000 + n, 'zq7rolledback' || n FROM generate_series(1, 50) AS n;
ROLLBACK;
ALTER TABLE person ADD COLUMN old_phone text;
UPDATE person SET old_phone = 'zq7dropped' || id;
ALTER TABLE person DROP COLUMN old_phone;
INSERT INTO person (id, email) SELECT 10000 + n, 'zq7deleted' || n FROM generate_series(1, 50) AS n;
DELETE FROM person WHERE id > 10000;

-- a table that a script of the image clears, without any rule
CREATE TABLE session (id integer, token text);
INSERT INTO session SELECT n, 'zq7scripted' || n FROM generate_series(1, 50) AS n;

-- a table that no rule masks, with compressed values in TOAST; its rows are deleted later
CREATE TABLE diary (id integer, said text);
INSERT INTO diary
SELECT n, (SELECT string_agg(md5(n || '.' || i), '') FROM generate_series(1, 100) AS i) || repeat('zq7buried', 3000)
FROM generate_series(1, 40) AS n;

SELECT lo_from_bytea(0, convert_to('zq7largeobject1' || repeat('x', 100), 'UTF8'));
BEGIN;
INSERT INTO person (id, email) VALUES (30000, 'zq7prepared1');
PREPARE TRANSACTION 'zq7twophase1';
CHECKPOINT;
SELECT pg_switch_wal();
