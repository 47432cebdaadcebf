# The control plane: no libtorch, no Python.
#
#   docker build -f docker/coordinator.Dockerfile -t prospect-coordinator:0.1.0 .
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_BASE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_BASE} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package prospect-cli && \
    install -D target/release/prospect /out/prospect

FROM ${RUNTIME_BASE}
COPY --from=build /out/prospect /usr/local/bin/prospect
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /runs
EXPOSE 7000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/prospect"]
CMD ["coordinator", "/etc/prospect/run.toml", "--listen", "0.0.0.0:7000", "--run-dir", "/runs/run", "--log-format", "json"]
