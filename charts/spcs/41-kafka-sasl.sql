-- Makes   one Kafka broker that asks clients, other brokers and controllers
--         for a password (SASL_PLAINTEXT; 31-secrets-sasl.sql has the users).
-- Costs   a block volume of volume_size, and its share of the pool. After a DROP, the
--         volume's snapshot is kept for seven days, and costs too.
--
--   for n in 1 2 3; do node=$n snow sql -f 41-kafka-sasl.sql; done
--
-- A fourth broker needs other values: see kafka_roles in snowflake.yml.
--
-- Either this file or 40-kafka-plaintext.sql. Each broker is a service of its own, because
-- Snowflake has no name for an instance of a service. No readinessProbe: probes are
-- HTTP, which Kafka does not speak. Without one an instance counts as ready at once,
-- so that the three find each other while they start.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

CREATE SERVICE IF NOT EXISTS kafka_<% ctx.env.node %>
  IN COMPUTE POOL <% ctx.env.kafka_pool %>
  FROM SPECIFICATION $$
spec:
  containers:
  - name: kafka
    image: /<% ctx.env.database %>/<% ctx.env.schema %>/<% ctx.env.repository %>/kafka:<% ctx.env.kafka_tag %>
    env:
      KAFKA_PROCESS_ROLES: <% ctx.env.kafka_roles %>
      KAFKA_NODE_ID: "<% ctx.env.node %>"
      CLUSTER_ID: <% ctx.env.cluster_id %>
      KAFKA_LISTENERS: <% ctx.env.kafka_listeners %>
      KAFKA_ADVERTISED_LISTENERS: INTERNAL://kafka-<% ctx.env.node %><% ctx.env.dns_suffix %>:9092
      KAFKA_INTER_BROKER_LISTENER_NAME: INTERNAL
      KAFKA_CONTROLLER_LISTENER_NAMES: CONTROLLER
      KAFKA_CONTROLLER_QUORUM_VOTERS: <% ctx.env.quorum_voters %>
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: INTERNAL:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
      KAFKA_SASL_ENABLED_MECHANISMS: PLAIN,SCRAM-SHA-512
      KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL: PLAIN
      KAFKA_SASL_MECHANISM_CONTROLLER_PROTOCOL: PLAIN
      KAFKA_LISTENER_NAME_INTERNAL_SCRAM___SHA___512_SASL_JAAS_CONFIG: org.apache.kafka.common.security.scram.ScramLoginModule required;
      KAFKA_LISTENER_NAME_CONTROLLER_SASL_ENABLED_MECHANISMS: PLAIN
      KAFKA_LOG_DIRS: /var/lib/kafka/data/logs  # not the mount itself: lost+found is there
      KAFKA_DEFAULT_REPLICATION_FACTOR: "<% ctx.env.replicas %>"
      KAFKA_MIN_INSYNC_REPLICAS: "<% ctx.env.min_insync %>"
      KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: "<% ctx.env.replicas %>"
      KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: "<% ctx.env.replicas %>"
      KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: "<% ctx.env.min_insync %>"
      KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR: "<% ctx.env.replicas %>"
      KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR: "<% ctx.env.min_insync %>"
      KAFKA_NUM_PARTITIONS: "3"
      KAFKA_HEAP_OPTS: -Xms1g -Xmx3g
    secrets:
    - snowflakeSecret: <% ctx.env.database %>.<% ctx.env.schema %>.kafka_users
      secretKeyRef: secret_string
      envVarName: KAFKA_LISTENER_NAME_INTERNAL_PLAIN_SASL_JAAS_CONFIG
    - snowflakeSecret: <% ctx.env.database %>.<% ctx.env.schema %>.kafka_users
      secretKeyRef: secret_string
      envVarName: KAFKA_LISTENER_NAME_CONTROLLER_PLAIN_SASL_JAAS_CONFIG
    volumeMounts:
    - name: data
      mountPath: /var/lib/kafka/data
    resources:
      requests:
        memory: 7Gi  # more than half a node: no two brokers on one
        cpu: 1
  endpoints:
  - name: kafka
    port: 9092
    protocol: TCP
  - name: controller
    port: 9093
    protocol: TCP
  volumes:
  - name: data
    source: block
    size: <% ctx.env.volume_size %>
$$
  AUTO_RESUME = TRUE
  MIN_INSTANCES = 1
  MAX_INSTANCES = 1
  COMMENT = 'Kafka broker <% ctx.env.node %>, behind culvert';
