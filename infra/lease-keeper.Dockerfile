# lease-keeper's image: its binary and nothing else; Amazon's root certificates are in the binary.
#
#   infra/package --program lease-keeper
#   docker build --platform linux/arm64 -f infra/lease-keeper.Dockerfile -t lease-keeper target/package
#
# Podman and Buildah accept the same arguments, and also need --platform. For an image in which lease-keeper starts the
# service: COPY --from=lease-keeper /lease-keeper /lease-keeper

# amd64 or arm64, from --platform; infra/package calls amd64 x86_64.
ARG TARGETARCH

FROM scratch AS lease-keeper-amd64
COPY lease-keeper-x86_64/bootstrap /lease-keeper

FROM scratch AS lease-keeper-arm64
COPY lease-keeper-arm64/bootstrap /lease-keeper

FROM lease-keeper-${TARGETARCH}
# A number: Kubernetes cannot check that a user name is not root's.
USER 65532:65532
ENTRYPOINT ["/lease-keeper"]
