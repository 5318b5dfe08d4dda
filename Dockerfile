# syntax=docker/dockerfile:1
#
#   docker build -t vae-service .                              for CPUs
#   docker build -t vae-service:gpu --build-arg DEVICE=cuda .  for NVIDIA GPUs
#
# The service listens on all of the container's addresses, so it only starts with API keys, as here
# and in docker-compose.yml, or with VAE_ALLOW_ANONYMOUS=true, which lets anyone use it:
#
#   docker run --rm vae-service vae keys alice >> api-keys
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume ./api-keys:/run/secrets/api-keys:ro \
#     --env VAE_API_KEYS_FILE=/run/secrets/api-keys vae-service
#
# For x86-64 Linux, the public package index has the CUDA build of torch. It runs on CPUs too, but is
# gigabytes larger than the CPU build. To install the latter, name PyTorch's CPU index, whose address
# is on PyTorch's "get started" page: --build-arg TORCH_INDEX_URL=…

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The compiler is for the C extensions. The service works without them, only slower.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* && python -m venv /opt/vae
COPY pyproject.toml constraints.txt README.md LICENSE ./
# torch gets a layer of its own, which stays cached while the code changes.
RUN /opt/vae/bin/python -m pip install --constraint constraints.txt \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0
COPY model ./model
COPY service ./service
COPY vae ./vae
# ONNX Runtime, 27 MB, computes networks with convolutions on a CPU; without it, torch does, slower.
RUN /opt/vae/bin/python -m pip install --constraint constraints.txt '.[onnxruntime]'

FROM python:${PYTHON_VERSION}-slim
# cuda, not auto: an image built for a GPU should fail without one, instead of being slow silently.
ARG DEVICE=cpu
ENV PATH=/opt/vae/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VAE_DEVICE=${DEVICE} \
    VAE_HOST=0.0.0.0 \
    VAE_PORT=8000
RUN useradd --system --no-create-home --uid 10001 vae
COPY --from=build /opt/vae /opt/vae
USER vae
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-m", "service.healthcheck"]
CMD ["python", "-m", "service"]
