-- Makes   another key take the place of that of 62-key-pair.sql. The former one works
--         for 24 hours more, and then expires. The new one expires after as many days
--         as the former one would have.
-- Costs   nothing.
--
--   (umask 077; openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out next.p8)
--   export public_key=$(openssl pkey -in next.p8 -pubout | sed '/-----/d' | tr -d '\n')
--   snow sql -f 63-rotate-key-pair.sql && mv next.p8 snowflake.p8
--
-- The agent reads its file again when it changes. If somebody else has the former
-- key, add EXPIRE_ROTATED_KEY_PAIR_AFTER_HOURS = 0: then it ends at once. A key that
-- has expired cannot be rotated with these 24 hours: add one with another name, with
-- 62-key-pair.sql.
-- Run as  a user with ACCOUNTADMIN.
USE ROLE ACCOUNTADMIN;

ALTER USER <% ctx.env.client_user %> ROTATE KEY PAIR culvert_agent
  PUBLIC_KEY = '<% ctx.env.public_key %>';
SHOW USER KEY PAIRS FOR USER <% ctx.env.client_user %>;
