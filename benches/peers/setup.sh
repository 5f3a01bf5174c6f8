#!/usr/bin/env bash
# Makes a Python environment with the peers in `.venv` beside this file, or in the directory that $VENV names. ScaNN is
# large and exists for Linux only: `setup.sh --scann` adds it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$here/.venv}
packages=(-r "$here/requirements.txt")
case ${1:-} in
    '') ;;
    --scann) packages+=(scann==1.4.2) ;;
    *) echo "usage: $0 [--scann]" >&2; exit 2 ;;
esac
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet "${packages[@]}"
echo "$venv/bin/python $here/compare.py --help"
