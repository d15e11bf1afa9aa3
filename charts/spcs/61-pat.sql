-- Makes   a programmatic access token for the agent, and prints it once, in
--         the column token_secret. Put it into a file of its own:
--
--   (umask 077; cat > snowflake.pat)
--
-- Costs   nothing, but expires: after 90 days, or what your account's authentication
--         policy allows. A new one: ALTER USER ... ROTATE PROGRAMMATIC ACCESS TOKEN.
--         The agent reads its file again when it changes.
-- Run as  a user with ACCOUNTADMIN. Either this file or 62-key-pair.sql.
USE ROLE ACCOUNTADMIN;

ALTER USER <% ctx.env.client_user %> ADD PROGRAMMATIC ACCESS TOKEN culvert_agent
  ROLE_RESTRICTION = '<% ctx.env.client_role | upper %>'
  DAYS_TO_EXPIRY = 90
  COMMENT = 'culvert agent';
