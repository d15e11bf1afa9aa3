# The image of culvert: one static binary and the certificates of public
# authorities.
#
#   docker build -t culvert .
#
# That gives linux/amd64 on every machine, a Mac with Apple Silicon too, because
# Snowpark Container Services runs nothing else. The Go compiler itself runs as
# what the machine is: nothing is emulated. Another platform is an argument, and
# several at once are an empty one:
#
#   docker build --build-arg PLATFORM=linux/arm64 -t culvert .
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg PLATFORM= -t culvert .
#
# The same bases give the same binary. These are tags, which move; for a build that can
# be repeated, name digests: --build-arg GO_IMAGE=docker.io/library/golang@sha256:...
# --build-arg BASE_IMAGE=gcr.io/distroless/static-debian12@sha256:...
ARG PLATFORM=linux/amd64
ARG GO_IMAGE=docker.io/library/golang:1.26-bookworm
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM --platform=$BUILDPLATFORM $GO_IMAGE AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY protocol protocol
COPY proxy proxy
COPY rewrite rewrite
ARG BUILDPLATFORM TARGETPLATFORM PLATFORM
ARG VERSION= REVISION= COMMIT_TIME=
# The binary's time, so that its layer is the same whoever builds it from the same bases.
ARG SOURCE_DATE_EPOCH=0
# An explicit --platform writes its own name on the image, whatever is in it.
RUN if [ -n "$PLATFORM" ] && [ "$TARGETPLATFORM" != "$BUILDPLATFORM" ] && [ "$TARGETPLATFORM" != "$PLATFORM" ]; then \
      echo "--platform $TARGETPLATFORM, but PLATFORM is $PLATFORM: add --build-arg PLATFORM=" >&2; exit 1; fi; \
    platform="${PLATFORM:-$TARGETPLATFORM}" && arch="${platform#*/}" && \
    CGO_ENABLED=0 GOOS="${platform%%/*}" GOARCH="${arch%%/*}" \
      go build -trimpath -buildvcs=false -ldflags "-s -w -X main.release=$VERSION -X main.commit=$REVISION -X main.commitTime=$COMMIT_TIME" -o /out/culvert ./cmd/culvert && \
    touch -d "@$SOURCE_DATE_EPOCH" /out/culvert

# Not scratch: BuildKit writes the builder's own platform on what stands on that,
# and Snowflake would refuse an image which says arm64.
FROM --platform=${PLATFORM:-$TARGETPLATFORM} $BASE_IMAGE
ARG VERSION= REVISION=
LABEL org.opencontainers.image.title="culvert" \
      org.opencontainers.image.description="Kafka through an HTTPS-only door: unmodified clients outside, untouched brokers inside." \
      org.opencontainers.image.source="https://github.com/culvert-proxy/culvert" \
      org.opencontainers.image.documentation="https://github.com/culvert-proxy/culvert/blob/main/docs/snowflake.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/culvert /usr/local/bin/culvert
# A number, so that Kubernetes sees that it is not root.
ARG UID=65532
USER $UID:$UID
# The gateway; clients of an agent: bootstrap, and brokers 0 to 3.
EXPOSE 8443 9092 19092 19093 19094 19095
ENTRYPOINT ["/usr/local/bin/culvert"]
CMD ["--help"]
