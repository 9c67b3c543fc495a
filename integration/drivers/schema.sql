-- What a program finds, in a schema named as its folder.
DROP SCHEMA IF EXISTS :schema CASCADE;
CREATE SCHEMA :schema;
SET search_path = :schema;
CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL, price numeric);
CREATE TABLE number (n int PRIMARY KEY);
CREATE TABLE copied (id int, name text);
CREATE TABLE dated (id int, name text, at timestamptz);
CREATE TABLE blob (id int, body bytea);
CREATE TABLE own (id int PRIMARY KEY, v text);
CREATE TABLE piped (id int PRIMARY KEY, v text);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (first int, second text);
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
CREATE PROCEDURE put(n int, INOUT total int) LANGUAGE plpgsql AS
    'BEGIN INSERT INTO own VALUES (n, ''put''); SELECT count(*) INTO total FROM own; END';
INSERT INTO number SELECT generate_series(1, 1000);
