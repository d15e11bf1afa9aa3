-- Makes   the role that owns the services, the role that may connect from
--         outside, the database and the schema.
-- Costs   nothing.
-- Run as  a user with ACCOUNTADMIN.
USE ROLE ACCOUNTADMIN;

CREATE ROLE IF NOT EXISTS <% ctx.env.owner_role %>;
CREATE ROLE IF NOT EXISTS <% ctx.env.client_role %>;
GRANT ROLE <% ctx.env.owner_role %> TO ROLE SYSADMIN;
GRANT ROLE <% ctx.env.client_role %> TO ROLE SYSADMIN;

CREATE DATABASE IF NOT EXISTS <% ctx.env.database %>;
-- Never CREATE OR REPLACE: the names of the services would change with the schema.
CREATE SCHEMA IF NOT EXISTS <% ctx.env.database %>.<% ctx.env.schema %>;

GRANT USAGE ON DATABASE <% ctx.env.database %> TO ROLE <% ctx.env.owner_role %>;
GRANT USAGE, CREATE SERVICE, CREATE IMAGE REPOSITORY, CREATE SECRET, CREATE SNAPSHOT
  ON SCHEMA <% ctx.env.database %>.<% ctx.env.schema %> TO ROLE <% ctx.env.owner_role %>;
-- Without this one no endpoint of a service can be public.
GRANT BIND SERVICE ENDPOINT ON ACCOUNT TO ROLE <% ctx.env.owner_role %>;
