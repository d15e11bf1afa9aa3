-- Makes   the gateway: independent instances (gateway_nodes) behind one public HTTPS
--         endpoint. When they are READY its host name is in the column ingress_url.
-- Costs   its share of the pool, and what Snowflake charges for data that leaves.
--
-- It needs no external access integration: it dials the brokers only, inside, and
-- nothing outside of Snowflake.
--
-- One of two instances may be missing, as during maintenance and upgrades: the
-- agent's connections move to the other. The name of the endpoint belongs to the
-- service: alter it, do not drop it. Snowflake advises to keep MIN_READY_INSTANCES
-- below half of MIN_INSTANCES; of two, one is the least.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

CREATE SERVICE IF NOT EXISTS kafka_gateway
  IN COMPUTE POOL <% ctx.env.gateway_pool %>
  FROM SPECIFICATION $$
spec:
  containers:
  - name: gateway
    image: /<% ctx.env.database %>/<% ctx.env.schema %>/<% ctx.env.repository %>/culvert:<% ctx.env.culvert_tag %>
    args:
    - gateway
    env:
      CULVERT_BOOTSTRAP: <% ctx.env.bootstrap %>
      CULVERT_LISTEN: :8443
      CULVERT_TOKEN_FILE: /etc/culvert/tokens/secret_string
      CULVERT_TICKET_KEY_FILE: /etc/culvert/ticket-key/secret_string
      CULVERT_ADMIN_LISTEN: :9465
      CULVERT_LOG_FORMAT: json
    secrets:
    - snowflakeSecret: <% ctx.env.database %>.<% ctx.env.schema %>.gateway_tokens
      directoryPath: /etc/culvert/tokens
    - snowflakeSecret: <% ctx.env.database %>.<% ctx.env.schema %>.ticket_key
      directoryPath: /etc/culvert/ticket-key
    mountSessionToken: false  # it has no use for Snowflake itself
    readinessProbe:
      port: 9465  # no endpoint: only Snowflake's probes reach it
      path: /readyz
    resources:
      requests:
        memory: 1Gi
        cpu: 0.5
      limits:
        memory: 4Gi
  endpoints:
  - name: gateway
    port: 8443
    public: true
  logExporters:
    eventTableConfig:
      logLevel: INFO
serviceRoles:
- name: agent
  endpoints:
  - gateway
$$
  AUTO_RESUME = TRUE
  MIN_INSTANCES = <% ctx.env.gateway_nodes %>
  MIN_READY_INSTANCES = 1
  MAX_INSTANCES = <% ctx.env.gateway_nodes %>
  COMMENT = 'culvert gateway: Kafka through an HTTPS-only ingress';

SHOW ENDPOINTS IN SERVICE kafka_gateway;
