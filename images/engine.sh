#!/usr/bin/env bash
# Gives this machine a Docker engine: installs Debian's docker.io, with what the images' tests use,
# and starts dockerd where none answers; its process id goes to the file $1, where one is given.
# Does nothing where it may not, and says so with exit code 3. The engine that it starts has no
# bridge: builds and downloads use --network=host, everything else --network=none.
set -euo pipefail
if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    if docker version >/dev/null 2>&1; then exit 0; fi
    echo "engine: no Docker engine answers this user, and only root on Debian can be given one here"
    exit 3
fi
missing=()
for pair in dockerd:docker.io mmdebstrap:mmdebstrap docker-registry:docker-registry; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if docker version >/dev/null 2>&1; then exit 0; fi
log=$(mktemp --suffix .dockerd.log)
setsid dockerd --bridge=none --iptables=false --ip-masq=false >"$log" 2>&1 </dev/null &
process=$!
echo "$process" >"${1:-/dev/null}"
for _ in $(seq 300); do
    if docker version >/dev/null 2>&1; then
        echo "engine: started dockerd, process $process"
        exit 0
    fi
    kill -0 "$process" 2>/dev/null || break
    sleep 0.1
done
echo "engine: dockerd does not start here: $(tail -n 1 "$log")"
exit 3
