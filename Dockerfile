# syntax=docker/dockerfile:1
#
#   docker build -t vae-service .                              for CPUs
#   docker build -t vae-service:gpu --build-arg DEVICE=cuda .  for NVIDIA GPUs
#
# It listens to all that reach the container, and so starts with API keys only (docker-compose.yml
# has the right way), or where VAE_ALLOW_ANONYMOUS=true says that anyone may ask:
#
#   docker run --rm vae-service python -m service.keys alice >> api-keys
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume ./api-keys:/run/secrets/api-keys:ro \
#     --env VAE_API_KEYS_FILE=/run/secrets/api-keys vae-service
#
# On x86-64 Linux, the torch on the public package index is the CUDA build. It runs on CPUs too, but
# is gigabytes larger than the CPU build; to take that one, name PyTorch's CPU index (its "get
# started" page has the address): --build-arg TORCH_INDEX_URL=…

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The compiler is for three small C files. Without it the service works too, only slower.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* && python -m venv /opt/vae
COPY pyproject.toml constraints.txt README.md ./
# torch first and alone: its layer stays while the code changes.
RUN /opt/vae/bin/python -m pip install --constraint constraints.txt \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0
COPY model ./model
COPY service ./service
RUN /opt/vae/bin/python -m pip install --constraint constraints.txt .

FROM python:${PYTHON_VERSION}-slim
# A container that was built for a GPU and finds none should say so, not be slow in silence.
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
