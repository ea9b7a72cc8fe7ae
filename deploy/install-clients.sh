#!/bin/sh
# Installs the gRPC clients that tests and the README use into a virtual environment: grpcurl where Go is, buf where npm
# is. Where neither is there, nothing happens: the tests that need them say that they were skipped.
set -eu
venv="$(cd "$1" && pwd)"
GRPCURL=v1.9.4
BUF=1.75.0

if [ ! -x "$venv/bin/grpcurl" ] && command -v go >/dev/null 2>&1; then
    GOBIN="$venv/bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL" ||
        echo "grpcurl could not be installed: is the Go module proxy reachable?" >&2
fi
if [ ! -x "$venv/bin/buf" ] && command -v npm >/dev/null 2>&1; then
    if npm install --silent --no-audit --no-fund --prefix "$venv/buf" "@bufbuild/buf@$BUF"; then
        ln -sf ../buf/node_modules/.bin/buf "$venv/bin/buf"
    else
        echo "buf could not be installed: is the npm registry reachable?" >&2
    fi
fi
for client in grpcurl buf; do
    if [ -x "$venv/bin/$client" ]; then "$venv/bin/$client" --version 2>&1 | head -n 1; fi
done
