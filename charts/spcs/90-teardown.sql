-- Makes   everything go away that the other files have made, the data in Kafka with
--         it. Snapshots of the volumes stay for seven days, and cost.
-- Costs   nothing from then on.
-- Run as  somebody with ACCOUNTADMIN.
USE ROLE ACCOUNTADMIN;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

ALTER USER IF EXISTS <% ctx.env.client_user %> UNSET NETWORK_POLICY;
DROP USER IF EXISTS <% ctx.env.client_user %>;
DROP NETWORK POLICY IF EXISTS culvert_clients;
DROP NETWORK RULE IF EXISTS culvert_clients;

DROP SERVICE IF EXISTS kafka_gateway;
-- A service with a block volume goes by force only.
DROP SERVICE IF EXISTS kafka_1 FORCE;
DROP SERVICE IF EXISTS kafka_2 FORCE;
DROP SERVICE IF EXISTS kafka_3 FORCE;
DROP COMPUTE POOL IF EXISTS <% ctx.env.kafka_pool %>;
DROP COMPUTE POOL IF EXISTS <% ctx.env.gateway_pool %>;

DROP SECRET IF EXISTS gateway_tokens;
DROP SECRET IF EXISTS ticket_key;
DROP SECRET IF EXISTS kafka_users;
DROP IMAGE REPOSITORY IF EXISTS <% ctx.env.repository %>;
DROP SCHEMA IF EXISTS <% ctx.env.database %>.<% ctx.env.schema %>;
DROP DATABASE IF EXISTS <% ctx.env.database %>;

DROP ROLE IF EXISTS <% ctx.env.client_role %>;
DROP ROLE IF EXISTS <% ctx.env.owner_role %>;
