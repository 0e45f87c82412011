# failover-latch's image, for a watcher that is a pod: its binary and nothing else; Amazon's root certificates are in it.
#
#   infra/package --program failover-latch
#   docker build --platform linux/arm64 -f infra/failover-latch.Dockerfile -t failover-latch target/package
#
# Podman and Buildah accept the same arguments, and also need --platform.

# amd64 or arm64, from --platform; infra/package calls amd64 x86_64.
ARG TARGETARCH

FROM scratch AS failover-latch-amd64
COPY failover-latch-x86_64/bootstrap /failover-latch

FROM scratch AS failover-latch-arm64
COPY failover-latch-arm64/bootstrap /failover-latch

FROM failover-latch-${TARGETARCH}
# A number: Kubernetes cannot check that a user name is not root's.
USER 65532:65532
ENTRYPOINT ["/failover-latch"]
