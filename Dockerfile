# The base images are arguments, so that a mirror, a pinned digest or an image of your own can take their place:
#   docker build --build-arg RUNTIME_IMAGE=debian:bookworm-slim -t lintmesh .
# BUILDER_IMAGE needs cargo 1.95 or newer and a C compiler; RUNTIME_IMAGE must be Debian or a derivative with the same
# or a newer C library than the builder's, and CPython 3.11 or newer in its package archive.
ARG BUILDER_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILDER_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM ${RUNTIME_IMAGE}
# The linters are Python programs; the managed toolchain is a virtual environment. apt wants its own user for downloads,
# which not every builder can switch to.
RUN apt-get -o APT::Sandbox::User=root update \
    && apt-get -o APT::Sandbox::User=root install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 lintmesh \
    && useradd --uid 10001 --gid lintmesh --create-home --home-dir /var/lib/lintmesh lintmesh
COPY --from=build /src/target/release/lintmesh /usr/local/bin/lintmesh

# By number: Kubernetes checks `runAsNonRoot` only against numbers.
USER 10001:10001
WORKDIR /var/lib/lintmesh
# Installed at build time, so that a container starts without a network and always with the same linters. These are only
# defaults: `toolchain.cache_dir` and `state.dir` of a settings file win, which they would not over LINTMESH__ variables.
ENV HOME=/var/lib/lintmesh \
    XDG_CACHE_HOME=/var/lib/lintmesh/cache \
    XDG_STATE_HOME=/var/lib/lintmesh/state
RUN lintmesh toolchain install
# What is to outlive the container: a volume that is mounted here takes over the folder's owner.
RUN mkdir -m 700 /var/lib/lintmesh/state

# The API, and health. Both listen on loopback until a configuration says otherwise; README.md, "In a container". A
# container that runs `lintmesh node` has no listener that the check could ask: start it with --no-healthcheck.
EXPOSE 50051 50052
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s CMD ["lintmesh", "healthcheck"]
ENTRYPOINT ["lintmesh"]
CMD ["serve"]
