# A worker with libtorch as PyPI's torch brings it, CUDA included. The GPU's
# driver comes from the machine. The image holds no Python.
#
#   docker build -f docker/worker.Dockerfile -t prospect-worker:0.1.0 .
ARG PYTHON_BASE=docker.io/library/python:3.11-slim-bookworm
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_BASE=docker.io/library/debian:bookworm-slim

FROM ${PYTHON_BASE} AS libtorch
COPY requirements /requirements
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --target /opt/libtorch --constraint /requirements/constraints.txt torch==2.11.0 && \
    python3 -m pip install --target /opt/libtorch --no-deps --requirement /requirements/cuda-headers.txt

FROM ${BUILD_BASE} AS build
COPY --from=libtorch /opt/libtorch /opt/libtorch
ENV LIBTORCH=/opt/libtorch/torch
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package prospect-cli --package prospect-worker && \
    install -D --target-directory /out target/release/prospect target/release/prospect-worker

FROM ${RUNTIME_BASE}
# The program finds the libraries where they were when it was built.
COPY --from=libtorch /opt/libtorch/torch/lib /opt/libtorch/torch/lib
COPY --from=libtorch /opt/libtorch/nvidia /opt/libtorch/nvidia
COPY --from=build /out/ /usr/local/bin/
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /runs
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/prospect-worker"]
CMD ["run", "--coordinator", "http://prospect-coordinator:7000"]
