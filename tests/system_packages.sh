#!/bin/sh
# Installs what a few tests need and pip cannot bring: libturbojpeg, and gcc for the simulated device. Only as root, with apt-get;
# otherwise, and where that fails, those tests are skipped and say so.
set -u
missing=""
ldconfig -p 2>/dev/null | grep -q libturbojpeg || missing="$missing libturbojpeg0"
command -v gcc >/dev/null && command -v nm >/dev/null || missing="$missing gcc libc6-dev"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # shellcheck disable=SC2086 # names of packages
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 && exit 0
fi
echo "not installed, so tests that need them are skipped:$missing" >&2
