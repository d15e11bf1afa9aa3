-- Makes   one broker restart with the current 40-kafka-plaintext.sql: another
--         version of Kafka, another setting. Its volume and its name stay.
-- Costs   nothing; clients of its partitions look for the new leaders during that.
--
--   node=1 snow sql -f 81-upgrade-kafka-plaintext.sql
--
-- A fourth broker: with the values that it was made with, see kafka_roles in
-- snowflake.yml. With those of the first three it does not start.
--
-- One broker at a time, and the next one only when this command, on the agent's
-- machine, prints nothing:
--
--   kafka-topics.sh --bootstrap-server 127.0.0.1:9092 --describe --under-replicated-partitions
--
-- Never DROP and CREATE: the volume would be gone. The specification is the
-- same as in 40-kafka-plaintext.sql; a test compares them.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

ALTER SERVICE kafka_<% ctx.env.node %>
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
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
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
$$;
