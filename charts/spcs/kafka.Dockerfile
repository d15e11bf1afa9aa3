# Apache Kafka's own image, but for the user: Snowflake mounts a block volume that
# root owns, and its specifications cannot name another. Its brokers stay as they
# are. A tag may move: --build-arg KAFKA=4.3.1@sha256:... does not.
ARG KAFKA=4.3.1
ARG PLATFORM=linux/amd64
# hadolint ignore=DL3029
FROM --platform=$PLATFORM docker.io/apache/kafka:$KAFKA
# hadolint ignore=DL3002
USER 0
