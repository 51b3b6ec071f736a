#!/usr/bin/env bash
# Everything that needs no torch, on the other Pythons that perfdoc supports and that this machine has (pyenv's, or on the
# path): the wheel is installed into an environment for each. PERFDOC_TESTS_PYTHONS names those that must be there.
set -euo pipefail
cd "$(dirname "$0")/.."
for version in 3.10 3.12 3.13; do
  python=$(command -v "python$version" || true)
  if [ -n "$python" ] && ! "$python" -c pass 2>/dev/null; then python=""; fi  # a shim of pyenv without its version
  for candidate in "$HOME"/.pyenv/versions/"$version".*/bin/python; do
    if [ -z "$python" ] && [ -x "$candidate" ]; then python=$candidate; fi
  done
  if [ -z "$python" ]; then
    case " ${PERFDOC_TESTS_PYTHONS:-} " in *" $version "*) echo "Python $version is required here, but missing" >&2; exit 1;; esac
    echo "Python $version is not here: its tests are skipped"
    continue
  fi
  venv=.venv-$version
  [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet pytest pytest-xdist hypothesis jsonschema dist/perfdoc-*.whl
  "$venv/bin/pip" install --quiet --no-deps --force-reinstall dist/perfdoc-*.whl
  "$venv/bin/python" --version
  "$venv/bin/pytest" -n 2 -m any_python
done
