#!/usr/bin/env bash
# Installs what the programs of integration/drivers/ need, and compiles those that are compiled.
#
# For Debian 12 or newer and Ubuntu, as root, with Rust. Packages of the system come first; what they
# lack goes to target/drivers. Run again, it does only what is missing or has changed.
set -Eeuo pipefail
cd "$(dirname "$0")"
target=$(cd ../.. && pwd)/target/drivers
mkdir -p "$target"

packages=(
    python3-venv
    default-jdk-headless libpostgresql-jdbc-java
    golang-go golang-github-lib-pq-dev golang-github-jackc-pgx-v4-dev
    ruby ruby-pg ruby-activerecord
    php-cli php-pgsql
    libdbd-pg-perl
)
python=(psycopg asyncpg sqlalchemy django)

# Any Node.js will do, with its own npm or that of the system.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
if command -v javac >/dev/null; then packages=("${packages[@]/default-jdk-headless/}"); fi

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        [ -z "$package" ] ||
            dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' ||
            missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# The copy of a list, taken once its packages were there, tells whether it has changed since.
install_python() {
    local folder wanted=() changed=
    for folder in "${python[@]}"; do
        wanted+=(-r "$folder/requirements.txt")
        cmp -s "$folder/requirements.txt" "$target/python/$folder.installed" || changed=yes
    done
    if [ -z "$changed" ]; then return; fi
    python3 -m venv "$target/python"
    "$target/python/bin/pip" install -q --disable-pip-version-check --only-binary :all: "${wanted[@]}"
    for folder in "${python[@]}"; do
        cp "$folder/requirements.txt" "$target/python/$folder.installed"
    done
}

install_node() {
    if cmp -s node/package-lock.json "$target/node/installed"; then return; fi
    mkdir -p "$target/node"
    cp node/package.json node/package-lock.json "$target/node/"
    (cd "$target/node" && npm ci --silent --no-audit --no-fund)
    cp node/package-lock.json "$target/node/installed"
}

compile_java() {
    if [ "$target/jdbc/Main.class" -nt jdbc/Main.java ]; then return; fi
    javac -cp /usr/share/java/postgresql.jar -d "$target/jdbc" jdbc/Main.java
}

# From the packages of the system only, without modules.
compile_go() {
    local folder
    for folder in golang_pq pgx; do
        if [ "$target/$folder" -nt "$folder/main.go" ]; then continue; fi
        GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$target/gocache" \
            go build -o "$target/$folder" "./$folder"
    done
}

compile_rust() {
    cargo build -q --locked --manifest-path rust/Cargo.toml --target-dir "$target/rust"
}

install_packages
install_python
install_node
compile_java
compile_go
compile_rust
