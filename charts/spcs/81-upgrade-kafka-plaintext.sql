-- Makes   one broker restart with the current 40-kafka-plaintext.sql: another
--         version of Kafka, another setting. Its volume and its name stay.
-- Costs   nothing; clients of its partitions look for the new leaders during that.
--
--   node=1 snow sql -f 81-upgrade-kafka-plaintext.sql
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
      KAFKA_PROCESS_ROLES: broker,controller
      KAFKA_NODE_ID: "<% ctx.env.node %>"
      CLUSTER_ID: <% ctx.env.cluster_id %>
      KAFKA_LISTENERS: INTERNAL://:9092,CONTROLLER://:9093
      KAFKA_ADVERTISED_LISTENERS: INTERNAL://kafka-<% ctx.env.node %><% ctx.env.dns_suffix %>:9092
      KAFKA_INTER_BROKER_LISTENER_NAME: INTERNAL
      KAFKA_CONTROLLER_LISTENER_NAMES: CONTROLLER
      KAFKA_CONTROLLER_QUORUM_VOTERS: 1@kafka-1:9093,2@kafka-2:9093,3@kafka-3:9093
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
      KAFKA_LOG_DIRS: /var/lib/kafka/data/logs  # not the mount itself: lost+found is there
      KAFKA_DEFAULT_REPLICATION_FACTOR: "3"
      KAFKA_MIN_INSYNC_REPLICAS: "2"
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
