#!/usr/bin/env bash
# Makes a stand-in for the Dockerfile's base image from Debian's packages, where no image registry can
# be reached: `images/local-base.sh`, then `make image-build BASE_IMAGE=llada-base:bookworm`.
# Needs root, mmdebstrap and a Docker engine; MIRROR is another Debian mirror than apt's default.
set -euo pipefail
name=llada-base:bookworm
if ! command -v mmdebstrap >/dev/null; then
    echo "local-base: error: no mmdebstrap; install it with \`sudo images/engine.sh\`" >&2
    exit 2
fi
if docker image inspect "$name" >/dev/null 2>&1; then
    echo "local-base: $name is there already"
    exit 0
fi
archive=$(mktemp --suffix .tar)
trap 'rm -f "$archive"' EXIT
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
    bookworm "$archive" ${MIRROR:+"$MIRROR"}
docker import --change 'CMD ["python3"]' "$archive" "$name" >/dev/null
echo "local-base: made $name"
