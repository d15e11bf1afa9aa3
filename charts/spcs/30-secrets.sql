-- Makes   the token that agents show the gateway, and the key with which the
--         gateway's instances sign the addresses that brokers have named.
-- Costs   nothing.
--
--   export gateway_token=$(openssl rand -hex 32) ticket_key=$(openssl rand -hex 32)
--   snow sql -f 30-secrets.sql
--   (umask 077; echo "$gateway_token" > culvert.token)
--
-- The file is for the agent. To change a secret: ALTER SECRET ... SET SECRET_STRING
-- (for several tokens, one NAME=TOKEN per line). Snowflake renews the files in
-- running containers, and the gateway reads them again.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

CREATE SECRET IF NOT EXISTS gateway_tokens
  TYPE = GENERIC_STRING
  SECRET_STRING = 'agent=<% ctx.env.gateway_token %>';

CREATE SECRET IF NOT EXISTS ticket_key
  TYPE = GENERIC_STRING
  SECRET_STRING = '<% ctx.env.ticket_key %>';
