-- Makes   the agent's user sign in with a key instead of a token. Snowflake keeps
--         the public half under a name, and shows its fingerprint.
-- Costs   nothing, but expires: after a year here, and never without DAYS_TO_EXPIRY.
--         63-rotate-key-pair.sql replaces it before that.
--
--   (umask 077; openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out snowflake.p8)
--   export public_key=$(openssl pkey -in snowflake.p8 -pubout | sed '/-----/d' | tr -d '\n')
--   snow sql -f 62-key-pair.sql
--
-- When Snowflake does not accept a key, the agent names the fingerprint that must be
-- in this list with the status ACTIVE. A user may have ten keys. No ROLE_RESTRICTION:
-- this user has one role.
-- Run as  a user with ACCOUNTADMIN. Either this file or 61-pat.sql.
USE ROLE ACCOUNTADMIN;

ALTER USER <% ctx.env.client_user %> ADD KEY PAIR culvert_agent
  PUBLIC_KEY = '<% ctx.env.public_key %>'
  DAYS_TO_EXPIRY = 365
  COMMENT = 'culvert agent';
SHOW USER KEY PAIRS FOR USER <% ctx.env.client_user %>;
