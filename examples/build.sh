#!/bin/sh
# Rebuilds every example module from its C source, in place.
#
# The modules are committed, so nobody needs a C compiler to try them. Debian 12:
#   apt install clang lld wasi-libc libclang-rt-14-dev-wasm32
# With those packages the bytes come out the same on every machine: no path,
# time stamp or build id gets into them. `build.sh --check` says if they differ.
set -eu
cd "$(dirname "$0")"

out=.
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi

status=0
for source in */*.c; do
  module=${source%.c}.wasm
  mkdir -p "$out/${module%/*}"
  clang --target=wasm32-wasi -std=gnu11 -O2 -s -Wall -Wextra -Werror -o "$out/$module" "$source"
  chmod 644 "$out/$module" # the linker marks it executable; nothing here runs it directly
  if [ "$out" != . ] && ! cmp -s "$module" "$out/$module"; then
    echo "examples/$module is not what examples/$source compiles to: run examples/build.sh" >&2
    status=1
  fi
done
exit $status
