-- Makes   the users of Kafka, for 41-kafka-sasl.sql: broker, with which the brokers
--         log in to each other and you make topics and users, and app.
-- Costs   nothing.
--
--   export broker_password=$(openssl rand -hex 24) app_password=$(openssl rand -hex 24)
--   snow sql -f 31-secrets-sasl.sql
--
-- More users need no secret and no restart, because these brokers also accept
-- SCRAM-SHA-512: kafka-configs.sh --alter --add-config 'SCRAM-SHA-512=[password=...]'
-- --entity-type users --entity-name alice, as broker and through the agent. Clients
-- with librdkafka before 2.6.1, such as Debian's kcat, cannot log in to Kafka 4 with
-- SCRAM.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

CREATE SECRET IF NOT EXISTS kafka_users
  TYPE = GENERIC_STRING
  SECRET_STRING = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="broker" password="<% ctx.env.broker_password %>" user_broker="<% ctx.env.broker_password %>" user_app="<% ctx.env.app_password %>";';
