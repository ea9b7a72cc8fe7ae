#!/bin/sh
# libp2p depends on fastecdsa, which is built from source: it wants a C compiler, Python's headers and gmp.h.
# Says what is missing and how to install it, before pip fails with a page of compiler output.
set -u
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: $python was not found; install Python 3.11 or later, or name it: make PYTHON=python3.12 setup" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old; Trellis needs 3.11 or later: make PYTHON=python3.12 setup" >&2
    exit 1
fi

missing=""
compiler=${CC:-cc}
if ! command -v "$compiler" >/dev/null 2>&1; then
    missing="a C compiler"
else
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    for header in gmp.h Python.h; do
        if ! echo "#include <$header>" | "$compiler" -I "$include" -E - >/dev/null 2>&1; then
            missing="${missing:+$missing, }$header"
        fi
    done
fi
[ -z "$missing" ] && exit 0

cat >&2 <<TEXT
error: building the node's dependencies needs $missing. Install it with one of:
  Debian, Ubuntu   apt-get install gcc libgmp-dev python3-dev
  Fedora, RHEL     dnf install gcc gmp-devel python3-devel
  Alpine           apk add build-base gmp-dev python3-dev
  macOS            brew install gmp
A wallet needs none of this: pip install ./proto
TEXT
exit 1
