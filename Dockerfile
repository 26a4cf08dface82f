# CPU:  docker build -t flaxcifar:cpu .
# CUDA: docker build -t flaxcifar:cuda --build-arg EXTRA=cuda .
FROM python:3.12-slim-bookworm

# An extra of pyproject.toml. The wheels of "cuda" contain CUDA; the host needs only its driver.
ARG EXTRA=cpu
# The extra "cpu" compiles its convolutions at their first use.
# hadolint ignore=DL3008
RUN if [ "$EXTRA" = cpu ]; then \
      apt-get update \
      && apt-get install -y --no-install-recommends g++ \
      && rm -rf /var/lib/apt/lists/*; \
    fi

COPY pyproject.toml setup.py README.md LICENSE /src/
COPY flaxcifar /src/flaxcifar
COPY configs /src/configs
RUN pip install --no-cache-dir "/src[$EXTRA,k8s]" && rm -rf /src

RUN useradd --create-home --uid 1000 flaxcifar \
    && mkdir -p /data /work/runs \
    && chown -R flaxcifar /data /work
USER 1000
WORKDIR /work
# Decoded datasets and compiled convolutions; datasets that TFDS has downloaded.
ENV XDG_CACHE_HOME=/data/cache \
    TFDS_DATA_DIR=/data/tfds \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/data", "/work/runs"]
ENTRYPOINT ["flaxcifar"]
CMD ["--help"]
