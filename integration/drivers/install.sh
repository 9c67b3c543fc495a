#!/usr/bin/env bash
# Installs what the programs of integration/drivers/ need, and compiles those that are compiled.
#
# Needs Debian 12 or newer, or Ubuntu, as root, with Rust. Packages of the system come first; what they lack
# goes to target/drivers. Run again, it does only what is missing.
set -Eeuo pipefail
cd "$(dirname "$0")"
target=$(cd ../.. && pwd)/target/drivers
mkdir -p "$target"

# Whether the copy taken when something was installed still equals what asks for it.
is_current() {
    cmp -s "$1" "$2"
}

install_packages() {
    local wanted=(python3-venv) missing=() package
    for package in "${wanted[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' ||
            missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

install_python() {
    local folder wanted=() changed=
    for folder in psycopg; do
        wanted+=(-r "$folder/requirements.txt")
        is_current "$folder/requirements.txt" "$target/python/$folder.installed" || changed=yes
    done
    if [ -z "$changed" ]; then return; fi
    python3 -m venv "$target/python"
    "$target/python/bin/pip" install -q --disable-pip-version-check --only-binary :all: "${wanted[@]}"
    for folder in psycopg; do
        cp "$folder/requirements.txt" "$target/python/$folder.installed"
    done
}

install_packages
install_python
