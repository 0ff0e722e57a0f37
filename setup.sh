#!/bin/sh
# setup.sh EXTRAS: make .venv hold idiolect with these extras, at the versions of constraints.txt.
# Quick when nothing changed. TORCH=cpu|cuda|rocm chooses PyTorch's build; default: what the machine has.
set -eu
cd "$(dirname "$0")"
extras=$1

python=${PYTHON:-}
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$python" ] && break
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'; then
        python=$name
    fi
done
missing=
if [ -n "$python" ]; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing=" $(basename "$python")-venv"
elif command -v python3 >/dev/null; then
    missing=" python3.11 python3.11-venv" # python3 is of another version
else
    missing=" python3 python3-venv"
fi
command -v git >/dev/null || missing="$missing git"
if [ -n "$missing" ]; then
    echo "missing:$missing (idiolect needs Python 3.11 to 3.14). Install with:" >&2
    echo "  sudo apt install$missing" >&2
    exit 1
fi

backend=${TORCH:-}
if [ -z "$backend" ]; then
    backend=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
        backend=cuda
    elif command -v rocminfo >/dev/null; then
        backend=rocm
    fi
fi
case $backend in
cpu | cuda | rocm) ;;
*)
    echo "TORCH=$backend: choose cpu, cuda or rocm" >&2
    exit 2
    ;;
esac

stamp=.venv/.setup-$(echo "$extras" | tr ',' '-')
state="$backend $(cat pyproject.toml constraints.txt setup.sh | cksum) $(pwd)"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && exit 0

echo "setting up .venv ($extras, PyTorch for $backend); a few minutes the first time" >&2
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }

version=$(sed -n 's/^torch==//p' constraints.txt)
here=$(.venv/bin/python -c "
import torch
kind = 'cuda' if torch.version.cuda else 'rocm' if torch.version.hip else 'cpu'
print(torch.__version__.split('+')[0], kind)" 2>/dev/null) || here=none
case $(uname -sm) in # the default registry has one build for a Mac or an ARM machine, whatever it is
Darwin* | *aarch64) wanted="$version ${here#* }" ;;
*) wanted="$version $backend" ;;
esac
if [ "$here" != "$wanted" ]; then
    [ "$here" = none ] || pip uninstall -y torch # pip takes one build of a version for another
    case $backend-$(uname -sm) in
    cuda-* | *-Darwin* | cpu-*aarch64) pip install "torch==$version" -c constraints.txt ;;
    *)
        # The default registry has only the CUDA build for this machine; uv knows where the others are.
        pip install "torch==$version+$backend" -c constraints.txt 2>/dev/null || {
            pip install uv -c constraints.txt
            [ "$backend" = rocm ] && backend=auto
            .venv/bin/uv pip install -q --python .venv/bin/python -c constraints.txt --torch-backend "$backend" "torch==$version"
        }
        ;;
    esac
fi
PYTHONWARNINGS=ignore pip install -e ".[$extras]" -c constraints.txt
echo "$state" >"$stamp"
