# The image of machines without GPUs: the head, CPU workers, who submits a night. Build from the root
# of the repository:
#   docker build -f infra/docker/cpu.Dockerfile -t example.com/llmaug-cpu:0.1.0 .
# A tag can be moved. To build on the same bytes every night, give the digest, too:
#   --build-arg RAY_IMAGE=rayproject/ray:2.60.0-py312-cpu@sha256:...   (docker buildx imagetools inspect)
ARG RAY_IMAGE=rayproject/ray:2.60.0-py312-cpu
FROM ${RAY_IMAGE}

# 1000 is `ray`, the ordinary user of the base image; nothing here runs as root.
USER 1000
WORKDIR /home/ray/llmaug
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch's CPU builds lie on PyTorch's own index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1

COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users requirements ./requirements
COPY --chown=ray:users llmaug ./llmaug
# What is installed are the versions of the lock, and boto3 with the botocore that s3fs takes. The
# three that vLLM brings and llmaug does not use go where they do not fit this torch (scripts/setup.sh).
RUN python -m pip install --no-input --no-cache-dir '.[cpu,aws]' \
        --constraint requirements/constraints-cpu-3.12.txt --extra-index-url "${TORCH_INDEX}" \
    && python -m pip install --no-input --no-cache-dir --no-deps --requirement requirements/text.txt \
    && { python -c 'import torchvision' \
        || python -m pip uninstall --yes torchvision torchaudio torchcodec; } \
    && python -c 'import llmaug, ray, torch'
COPY --chown=ray:users jobs ./jobs
COPY --chown=ray:users configs ./configs
