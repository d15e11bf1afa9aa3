-- Makes   two pools of machines: three for the brokers, two for the gateway, or one
--         and one for the try-out (try-out.env).
-- Costs   three times CPU_X64_S and two times CPU_X64_XS for as long as they run:
--         3 x 0.11 + 2 x 0.06 = 0.45 credits an hour, 11 a day, and 0.11 + 0.06 = 0.17
--         an hour for the try-out, at rates that we have not checked; Snowflake's
--         consumption table has today's. An idle pool costs
--         the same, so suspend both when you no longer need them:
--         ALTER COMPUTE POOL ... SUSPEND. Volumes keep their data.
-- Run as  a user with ACCOUNTADMIN.
USE ROLE ACCOUNTADMIN;

-- AUTO_SUSPEND_SECS is zero, because requests from outside do not count as activity:
-- the pool would be suspended under load.
CREATE COMPUTE POOL IF NOT EXISTS <% ctx.env.kafka_pool %>
  MIN_NODES = <% ctx.env.kafka_nodes %>
  MAX_NODES = <% ctx.env.kafka_nodes %>
  INSTANCE_FAMILY = <% ctx.env.kafka_family %>
  AUTO_RESUME = TRUE
  AUTO_SUSPEND_SECS = 0
  COMMENT = 'culvert: a node for each Kafka broker'
  PLACEMENT_GROUP = 'DISTRIBUTED';

CREATE COMPUTE POOL IF NOT EXISTS <% ctx.env.gateway_pool %>
  MIN_NODES = <% ctx.env.gateway_nodes %>
  MAX_NODES = <% ctx.env.gateway_nodes %>
  INSTANCE_FAMILY = <% ctx.env.gateway_family %>
  AUTO_RESUME = TRUE
  AUTO_SUSPEND_SECS = 0
  COMMENT = 'culvert: the gateway'
  PLACEMENT_GROUP = 'DISTRIBUTED';

GRANT USAGE, MONITOR, OPERATE ON COMPUTE POOL <% ctx.env.kafka_pool %> TO ROLE <% ctx.env.owner_role %>;
GRANT USAGE, MONITOR, OPERATE ON COMPUTE POOL <% ctx.env.gateway_pool %> TO ROLE <% ctx.env.owner_role %>;
