#!/usr/bin/env bash
# Checks and tests the Python and JavaScript SDKs by themselves, without a host.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${CARGO_TARGET_DIR:-target}/sdks"
tools=$(cd "${CARGO_TARGET_DIR:-target}/sdks" && pwd)
readonly tools venv="$tools/venv" root=$PWD
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

cd guest-sdk/python
if ! cmp -s pyproject.toml "$venv/pyproject.toml"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet '.[test]'
  cp pyproject.toml "$venv/pyproject.toml"
fi
"$venv/bin/ruff" check --quiet --no-cache .
"$venv/bin/ruff" format --quiet --no-cache --check .
"$venv/bin/mypy" --cache-dir "$tools/mypy" --no-error-summary
"$venv/bin/pytest" -p no:cacheprovider

# As an author has it: the wheel alone reads a project.
rm -rf "$tools/wheel"
"$venv/bin/pip" wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir "$tools/wheel" .
"$venv/bin/pip" install --quiet --no-index --no-deps --force-reinstall "$tools"/wheel/dormouse-*.whl
(cd "$tools" && "$venv/bin/python" -m dormouse.build --check "$root/examples/python/llama-chat" -o none 2>/dev/null) \
  | grep -q '"models": \["smollm2"\]'

cd "$root/guest-sdk/js"
if ! cmp -s package.json node_modules/.installed; then
  npm install --no-package-lock --no-audit --no-fund --loglevel=error >/dev/null
  cp package.json node_modules/.installed
fi
npm run --silent check
node --test --test-reporter=dot test/
