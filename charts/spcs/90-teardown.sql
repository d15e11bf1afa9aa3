-- Makes   everything go away that the other files have made, including the data in
--         Kafka. The schema and the database stay, because others may use them: see
--         the end. Snapshots of the volumes are kept for seven days, and cost too.
-- Costs   nothing from then on.
-- Run as  a user with ACCOUNTADMIN.
--
-- It uses the role that owns the services, which cannot drop objects of other roles.
-- If your own brokers are among its services and have these names, remove the lines.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

DROP SERVICE IF EXISTS kafka_gateway;
-- A service with a block volume can only be dropped by force.
DROP SERVICE IF EXISTS kafka_1 FORCE;
DROP SERVICE IF EXISTS kafka_2 FORCE;
DROP SERVICE IF EXISTS kafka_3 FORCE;
DROP SERVICE IF EXISTS kafka_4 FORCE;  -- and so on, if you have added more

DROP SECRET IF EXISTS gateway_tokens;
DROP SECRET IF EXISTS ticket_key;
DROP SECRET IF EXISTS kafka_users;
DROP IMAGE REPOSITORY IF EXISTS <% ctx.env.repository %>;

USE ROLE ACCOUNTADMIN;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

DROP COMPUTE POOL IF EXISTS <% ctx.env.kafka_pool %>;
DROP COMPUTE POOL IF EXISTS <% ctx.env.gateway_pool %>;

ALTER USER IF EXISTS <% ctx.env.client_user %> UNSET NETWORK_POLICY;
DROP USER IF EXISTS <% ctx.env.client_user %>;
DROP NETWORK POLICY IF EXISTS <% ctx.env.network_policy %>;
DROP NETWORK RULE IF EXISTS <% ctx.env.network_policy %>;

DROP ROLE IF EXISTS <% ctx.env.client_role %>;
DROP ROLE IF EXISTS <% ctx.env.owner_role %>;

-- By hand, and only if 00-roles.sql has made them and nobody has put anything else
-- into them: with a database goes all that is in it, of all roles.
--
--   DROP SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;
--   DROP DATABASE <% ctx.env.database %>;
