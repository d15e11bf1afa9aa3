-- Makes   nothing: shows the state of everything.
-- Costs   nothing.
--
-- The log of a container: SELECT SYSTEM$GET_SERVICE_LOGS('kafka_gateway', '0', 'gateway', 100),
-- and ('kafka_1', '0', 'kafka', 100) for a broker.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

SHOW COMPUTE POOLS LIKE '<% ctx.env.kafka_pool %>';
SHOW COMPUTE POOLS LIKE '<% ctx.env.gateway_pool %>';
SHOW SERVICES;
SHOW SERVICE CONTAINERS IN SERVICE kafka_gateway;
SHOW ENDPOINTS IN SERVICE kafka_gateway;
