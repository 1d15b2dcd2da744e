#!/usr/bin/env bash
# Renew requirements/constraints-{cpu,gpu}-*.txt: the versions that `make setup` and the image
# install, one file a kind and Python. Needs a package index, and `uv`, which `make lock` installs.
set -euo pipefail
cd "$(dirname "$0")/.."

UV=${UV:-${VENV:-.venv}/bin/uv}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# compile KIND PYTHON [more arguments]: the pins, to stdout.
compile() {
    local kind=$1 python=$2
    shift 2
    "$UV" pip compile pyproject.toml "$@" --quiet --upgrade \
        --extra "$kind" --extra aws --extra gcp --extra demo --extra delta --extra text \
        --extra bench --extra dev \
        --python-version "$python" --python-platform x86_64-manylinux_2_28 \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links
}

# torch's CPU builds (2.13.0+cpu) lie on an index of their own, which not every machine reaches,
# and want no CUDA. So torch is left out of the cpu locks, and then pinned to the release that the
# gpu lock has: 2.13.0 in a constraint also allows 2.13.0+cpu. What torch itself needs is named.
echo 'torch ; python_version < "3"' >"$work/without-torch"
printf 'networkx\nsympy\n' >"$work/needs-of-torch.in"

for python in 3.11 3.12 3.13; do
    gpu=$work/gpu-$python cpu=$work/cpu-$python
    compile gpu "$python" >"$gpu"
    grep '^torchvision==' "$gpu" >"$work/fits-torch"
    compile cpu "$python" "$work/needs-of-torch.in" \
        --overrides "$work/without-torch" --constraints "$work/fits-torch" >"$cpu"
    grep '^torch==' "$gpu" >>"$cpu"
    for kind in gpu cpu; do
        {
            echo "# Versions of llmaug[$kind] on Python $python. Made by \`make lock\`; not edited."
            sed 's/+[a-z0-9.]*$//' "$work/$kind-$python" | LC_ALL=C sort -u
        } >"requirements/constraints-$kind-$python.txt"
        echo "lock: requirements/constraints-$kind-$python.txt"
    done
done
