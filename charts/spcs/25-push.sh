#!/bin/sh
# Makes   the images of culvert and of Apache Kafka, both for linux/amd64 on every
#         machine, and pushes them. Run it in this folder; it needs Docker.
# Costs   nothing but the storage of the images (20-images.sql).
#
#   ./25-push.sh REPOSITORY-URL [CULVERT-TAG [KAFKA-TAG]]
#
# The URL is the one that 20-images.sql shows, the tags are those of snowflake.yml.
# For pools of the family GEN_ARM_G1: platform=linux/arm64 ./25-push.sh ...
# Without Snowflake's CLI it asks for the password of the user in $snowflake_user, or
# for a programmatic access token of that user.
set -eu

repository="${1:?say where to: the repository_url that 20-images.sql has shown}"
culvert="$repository/culvert:${2:-1}"
kafka="$repository/kafka:${3:-4.3.1}"
platform="${platform:-linux/amd64}"

docker build -t "$culvert" --build-arg "PLATFORM=$platform" ../..
docker build -t "$kafka" --build-arg "PLATFORM=$platform" --build-arg "KAFKA=${3:-4.3.1}" -f kafka.Dockerfile .

for image in "$culvert" "$kafka"; do
  is="$(docker image inspect --format '{{.Os}}/{{.Architecture}}' "$image")"
  if [ "$is" != "$platform" ]; then
    echo "$image is for $is, and not for $platform: unset DOCKER_DEFAULT_PLATFORM. Snowflake runs linux/amd64," \
      "and linux/arm64 only in pools of the family GEN_ARM_G1: for these, set platform=linux/arm64" >&2
    exit 1
  fi
done

if command -v snow > /dev/null; then
  # With the role that owns the repository.
  owner_role="${owner_role:-$(sed -n 's/^  owner_role: *\([A-Za-z0-9_]*\).*/\1/p' snowflake.yml)}"
  snow spcs image-registry login --role "$owner_role"
else
  docker login "${repository%%/*}" -u "${snowflake_user:?export snowflake_user, as there is no snow in PATH}"
fi
docker push "$culvert"
docker push "$kafka"
