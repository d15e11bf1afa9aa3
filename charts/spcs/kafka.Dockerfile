# Apache Kafka's own image, except for the user: the block volumes that Snowflake
# mounts belong to root, and a specification cannot change that. Nothing else
# changes. A tag may move: --build-arg KAFKA=4.3.1@sha256:... does not.
ARG KAFKA=4.3.1
ARG PLATFORM=linux/amd64
# hadolint ignore=DL3029
FROM --platform=$PLATFORM docker.io/apache/kafka:$KAFKA
# hadolint ignore=DL3002
USER 0
