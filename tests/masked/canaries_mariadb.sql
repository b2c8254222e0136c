CREATE DATABASE canary CHARACTER SET utf8mb4;
USE canary;
CREATE TABLE person (id int PRIMARY KEY AUTO_INCREMENT, email varchar(80) UNIQUE, name varchar(60), bio mediumtext,
    notes text CHARACTER SET latin1, wide varchar(40) CHARACTER SET ucs2, profile json, photo blob,
    shout varchar(60) AS (upper(name)) STORED, short varchar(9) AS (left(name, 9)) VIRTUAL, KEY (name, notes(20)),
    KEY (short));
INSERT INTO person (email, name, bio, notes, wide, profile, photo)
SELECT concat('zq7heap', seq, '@corp.invalid'), concat('zq7name', seq), concat('zq7overflow', seq, repeat('x', 20000)),
    concat('zq7latin', seq, ' fährt heim'), concat('zq7wide', seq),
    json_object('contact', json_object('email', concat('zq7json', seq, '@corp.invalid')), 'level', seq),
    concat('zq7blob', seq) FROM seq_1_to_300;
CREATE TABLE visit (id int, at date, who varchar(40), PRIMARY KEY (id, at)) PARTITION BY RANGE (year(at))
    (PARTITION old VALUES LESS THAN (2021), PARTITION young VALUES LESS THAN MAXVALUE);
INSERT INTO visit SELECT seq, date '2020-06-01' + INTERVAL seq DAY, concat('zq7partition', seq) FROM seq_1_to_400;
CREATE TABLE account (code varchar(40) PRIMARY KEY, label varchar(40));
CREATE TABLE booking (id int PRIMARY KEY, code varchar(40), CONSTRAINT of_account FOREIGN KEY (code) REFERENCES account (code));
INSERT INTO account SELECT concat('zq7keyed', seq), concat('zq7label', seq) FROM seq_1_to_100;
INSERT INTO booking SELECT seq, concat('zq7keyed', seq) FROM seq_1_to_100;
CREATE TABLE salary (id int PRIMARY KEY, who varchar(40)) WITH SYSTEM VERSIONING;
INSERT INTO salary SELECT seq, concat('zq7history', seq) FROM seq_1_to_100;
UPDATE salary SET who = concat('zq7present', id);
CREATE TABLE story (id int PRIMARY KEY, body text, FULLTEXT KEY (body));
INSERT INTO story SELECT seq, concat('zq7story', seq, ' came home zq7word', seq) FROM seq_1_to_200;
CREATE TABLE packed (id int PRIMARY KEY, who text) ROW_FORMAT=COMPRESSED;
INSERT INTO packed SELECT seq, concat('zq7packed', seq, repeat(' a long story', 50)) FROM seq_1_to_200;
CREATE TABLE squeezed (id int PRIMARY KEY, who text) PAGE_COMPRESSED=1;
INSERT INTO squeezed SELECT seq, concat('zq7squeezed', seq, repeat(' a long story', 50)) FROM seq_1_to_200;
CREATE TABLE old_style (id int PRIMARY KEY, who varchar(40), KEY (who)) ENGINE=MyISAM;
INSERT INTO old_style SELECT seq, concat('zq7myisam', seq) FROM seq_1_to_100;
CREATE TABLE crashproof (id int PRIMARY KEY, who varchar(40), KEY (who)) ENGINE=Aria;
INSERT INTO crashproof SELECT seq, concat('zq7aria', seq) FROM seq_1_to_100;
CREATE TABLE product (id int PRIMARY KEY, title varchar(40));
INSERT INTO product SELECT seq, concat('product ', seq) FROM seq_1_to_100;
INSERT INTO product SELECT 1000 + seq, concat('zq7buried', seq) FROM seq_1_to_100;
DELETE FROM product WHERE id > 1000;
CREATE TABLE leaflet (id int PRIMARY KEY, title varchar(40)) ENGINE=MyISAM;
INSERT INTO leaflet SELECT seq, concat('a leaflet about somebody zq7interred', seq) FROM seq_2_to_100;
DELETE FROM leaflet WHERE id > 1;
INSERT INTO leaflet VALUES (1, 'x');
CREATE TABLE session (token varchar(40));
INSERT INTO session SELECT concat('zq7scripted', seq) FROM seq_1_to_100;
CREATE TABLE audit (was varchar(80));
CREATE TRIGGER changed AFTER UPDATE ON person FOR EACH ROW INSERT INTO audit VALUES (old.email);
CREATE VIEW reachable AS SELECT id, email FROM person WHERE email IS NOT NULL;
CREATE FUNCTION greet(who varchar(60)) RETURNS varchar(80) DETERMINISTIC RETURN concat('Hello ', who);
CREATE SEQUENCE tickets START WITH 700;
SELECT nextval(tickets);
SET SESSION use_stat_tables = 'PREFERABLY';
ANALYZE TABLE person PERSISTENT FOR ALL;
DROP TRIGGER changed;
UPDATE person SET name = concat('zq7updated', id);
UPDATE person SET name = concat('zq7name', id);
CREATE TRIGGER changed AFTER UPDATE ON person FOR EACH ROW INSERT INTO audit VALUES (old.email);
INSERT INTO person (id, email) SELECT 10000 + seq, concat('zq7deleted', seq) FROM seq_1_to_50;
DELETE FROM person WHERE id > 10000;
BEGIN;
INSERT INTO person (id, email) SELECT 20000 + seq, concat('zq7rolledback', seq) FROM seq_1_to_50;
ROLLBACK;
ALTER TABLE person ADD COLUMN phone varchar(40);
UPDATE account SET label = concat('zq7undone', substr(code, 9));
UPDATE account SET label = concat('zq7label', substr(code, 9));
CREATE TABLE gone (what varchar(40));
INSERT INTO gone SELECT concat('zq7dropped', seq) FROM seq_1_to_50;
DROP TABLE gone;
FLUSH TABLES salary FOR EXPORT;
UNLOCK TABLES;
