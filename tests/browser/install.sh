#!/bin/sh
# What tests need besides Python: Chromium, Node for the OpenID Provider that they sign in at, a Korean font. Installs
# from the distribution what is missing (root); says what to do where it cannot.
set -eu
cd "$(dirname "$0")"
missing=
[ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null || missing="chromium"
command -v node >/dev/null && command -v npm >/dev/null || missing="$missing nodejs npm"
[ -d /usr/share/fonts/truetype/nanum ] || missing="$missing fonts-nanum"
ls /usr/lib/*/libatomic.so.1 >/dev/null 2>&1 || missing="$missing libatomic1" # of the Node that Playwright brings
if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need$missing (Debian's packages); or set CHROMIUM to a browser that is there." >&2
    exit 1
  fi
  apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi
[ provider/node_modules/.package-lock.json -nt provider/package-lock.json ] || npm ci --silent --prefix provider
