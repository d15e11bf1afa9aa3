-- Makes   the agent's user sign in with a key instead of a token: a key does not
--         expire.
-- Costs   nothing.
--
--   (umask 077; openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out snowflake.p8)
--   export public_key=$(openssl pkey -in snowflake.p8 -pubout | sed '/-----/d' | tr -d '\n')
--   snow sql -f 62-key-pair.sql
--
-- RSA_PUBLIC_KEY_FP in what it shows is the fingerprint that the agent names when
-- Snowflake does not know its key.
-- Run as  a user with ACCOUNTADMIN. Either this file or 61-pat.sql.
USE ROLE ACCOUNTADMIN;

ALTER USER <% ctx.env.client_user %> SET RSA_PUBLIC_KEY = '<% ctx.env.public_key %>';
DESCRIBE USER <% ctx.env.client_user %>;
