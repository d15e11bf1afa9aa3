#!/bin/sh
# Makes   the images of culvert and of Apache Kafka, both for linux/amd64 on every
#         machine, and pushes them. Run it in this folder; it needs Docker and
#         Snowflake's CLI.
# Costs   nothing but the storage of the images (20-images.sql).
#
#   ./25-push.sh REPOSITORY-URL [CULVERT-TAG [KAFKA-TAG]]
#
# The URL is the one that 20-images.sql shows, the tags are those of snowflake.yml.
set -eu

repository="${1:?say where to: the repository_url that 20-images.sql has shown}"
culvert="$repository/culvert:${2:-1}"
kafka="$repository/kafka:${3:-4.3.1}"

docker build -t "$culvert" ../..
docker build -t "$kafka" --build-arg "KAFKA=${3:-4.3.1}" -f kafka.Dockerfile .

for image in "$culvert" "$kafka"; do
  platform="$(docker image inspect --format '{{.Os}}/{{.Architecture}}' "$image")"
  if [ "$platform" != linux/amd64 ]; then
    echo "$image is for $platform, and Snowflake runs linux/amd64 only: unset DOCKER_DEFAULT_PLATFORM" >&2
    exit 1
  fi
done

# With the role that owns the repository.
owner_role="${owner_role:-$(sed -n 's/^  owner_role: *\([A-Za-z0-9_]*\).*/\1/p' snowflake.yml)}"
snow spcs image-registry login --role "$owner_role"
docker push "$culvert"
docker push "$kafka"
