-- Makes   the user with which the agent signs in. It may use the gateway's endpoint
--         and nothing else, and only from client_addresses.
-- Costs   nothing.
--
-- For more users, each with addresses of its own:
--
--   export client_user=alice network_policy=alice client_addresses=198.51.100.4/32
--   snow sql -f 60-access.sql; snow sql -f 61-pat.sql
--
-- Run as  a user with ACCOUNTADMIN.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;
GRANT SERVICE ROLE kafka_gateway!agent TO ROLE <% ctx.env.client_role %>;

USE ROLE ACCOUNTADMIN;
GRANT USAGE ON DATABASE <% ctx.env.database %> TO ROLE <% ctx.env.client_role %>;
GRANT USAGE ON SCHEMA <% ctx.env.database %>.<% ctx.env.schema %> TO ROLE <% ctx.env.client_role %>;

CREATE USER IF NOT EXISTS <% ctx.env.client_user %>
  TYPE = SERVICE
  DEFAULT_ROLE = <% ctx.env.client_role %>
  COMMENT = 'culvert agent';
GRANT ROLE <% ctx.env.client_role %> TO USER <% ctx.env.client_user %>;

-- A service user can have no access token without a network policy.
CREATE OR ALTER NETWORK RULE <% ctx.env.network_policy %>
  TYPE = IPV4
  VALUE_LIST = ('<% ctx.env.client_addresses %>')
  MODE = INGRESS;
CREATE NETWORK POLICY IF NOT EXISTS <% ctx.env.network_policy %>
  ALLOWED_NETWORK_RULE_LIST = ('<% ctx.env.database %>.<% ctx.env.schema %>.<% ctx.env.network_policy %>');
ALTER USER <% ctx.env.client_user %> SET NETWORK_POLICY = <% ctx.env.network_policy %>;
