#!/bin/sh
# What `make ci-web` runs, each section even if one before it failed: the built files must be what the
# sources give, byte for byte, and shipped; types, unit tests, and the page in a real browser.
cd "$(dirname "$0")" || exit 2
python=../.venv/bin/python
chromium=${CHROMIUM:-/usr/bin/chromium}
failed=""

section() {
    name=$1
    shift
    echo
    echo "== web $name"
    if "$@"; then :; else failed="$failed $name"; fi
}

tools() {
    for tool in node npm; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: install Node.js 20.19 or newer" >&2; return 1; }
    done
    if [ ! -x "$chromium" ]; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null
        else
            echo "$chromium is missing: install it (on Debian: apt-get install chromium), or set CHROMIUM" >&2
            return 1
        fi
    fi
    npm ci --no-fund --no-audit --loglevel=error
}

# A lock file that names where packages came from would bind every user to that place.
lock() {
    ! grep -n '"resolved"' package-lock.json
}

built() {
    fresh=$(mktemp -d)
    npx vite build --outDir "$fresh" --logLevel warn && diff -r "$fresh" ../shardkv/http/static
    same=$?
    rm -rf "$fresh"
    [ $same = 0 ] || echo 'shardkv/http/static is not what web/ gives: run `make web`, and commit it' >&2
    return $same
}

size() {
    bytes=$(find ../shardkv/http/static -type f -exec gzip -c {} + | wc -c)
    echo "$bytes bytes gzipped, at most 400000"
    [ "$bytes" -le 400000 ]
}

# The files must be in the wheel: users have no Node.
wheel() {
    into=$(mktemp -d)
    $python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$into" .. &&
        $python - "$into" <<'PYTHON'
import sys
from pathlib import Path
from zipfile import ZipFile

(wheel,) = Path(sys.argv[1]).glob("*.whl")
static = Path("../shardkv/http/static")
wanted = {f"shardkv/http/static/{p.relative_to(static).as_posix()}" for p in static.rglob("*.*")}
missing = wanted - set(ZipFile(wheel).namelist())
sys.exit(f"not in the wheel: {sorted(missing)}" if missing or not wanted else None)
PYTHON
    status=$?
    rm -rf "$into"
    return $status
}

section tools tools
[ -z "$failed" ] || exit 1
section lock lock
section types npx tsc --noEmit
section unit npx vitest run
section built built
section size size
section wheel wheel
section browser npx vitest run --config e2e/vitest.config.ts

[ -z "$failed" ] || { echo "web failed:$failed"; exit 1; }
