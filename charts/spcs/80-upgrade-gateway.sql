-- Makes   the gateway's instances restart, one after the other, with the current
--         50-gateway.sql: another version of culvert, another setting.
-- Costs   nothing; each connection is reset once, and clients reconnect.
--
-- Push the new image first (25-push.sh), under a new tag, and write
-- that into snowflake.yml. The specification is the same as in 50-gateway.sql; a
-- test compares them.
USE ROLE <% ctx.env.owner_role %>;
USE SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;

ALTER SERVICE kafka_gateway
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
$$;

SHOW SERVICE INSTANCES IN SERVICE kafka_gateway;
