# The image of machines with GPUs. Build from the root of the repository:
#   docker build -f infra/docker/gpu.Dockerfile -t example.com/llmaug-gpu:0.1.0 .
# A tag can be moved. To build on the same bytes every night, give the digest, too:
#   --build-arg RAY_IMAGE=rayproject/ray:2.60.0-py312-gpu@sha256:...   (docker buildx imagetools inspect)
ARG RAY_IMAGE=rayproject/ray:2.60.0-py312-gpu
FROM ${RAY_IMAGE}

# 1000 is `ray`, the ordinary user of the base image; nothing here runs as root.
USER 1000
WORKDIR /home/ray/llmaug
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1

COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users requirements ./requirements
COPY --chown=ray:users llmaug ./llmaug
# What is installed are the versions of the lock, and boto3 with the botocore that s3fs takes.
RUN python -m pip install --no-input --no-cache-dir '.[gpu,aws]' \
        --constraint requirements/constraints-gpu-3.12.txt \
    && python -m pip install --no-input --no-cache-dir --no-deps --requirement requirements/text.txt \
    && python -c 'import llmaug, ray, torch'
COPY --chown=ray:users jobs ./jobs
COPY --chown=ray:users configs ./configs
