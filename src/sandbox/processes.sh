# Signals and removes the servers of one throw-away cluster.
#
#   signal SIGNAL PID   sends SIGNAL to the postmaster PID and to each of its children
#   watch ROOT          waits until its standard input ends (the owner is done, or dead), then
#                       kills every server below ROOT and removes ROOT
#   release DATA        removes the shared memory that a killed server of this data directory left
#
# PostgreSQL's children lead their own process groups, so a group signal does not reach them.

children() {
    if command -v pgrep >/dev/null 2>&1; then
        pgrep -P "$1"
    else
        grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2>/dev/null | cut -d / -f 3
    fi
}

signal() {
    # A stopped postmaster cannot fork while its children are looked up.
    kill -s STOP "$2" 2>/dev/null || exit 0
    for pid in $(children "$2") "$2"; do
        kill -s "$1" "$pid" 2>/dev/null
    done
    true
}

# Every server works in its data directory, ROOT/<node>/data, and so does a proxy under test.
servers() {
    if [ -d /proc/self ]; then
        ls -l /proc/[0-9]*/cwd 2>/dev/null |
            sed -n "s|.* /proc/\([0-9]*\)/cwd -> $1/[^/]*/data\$|\1|p" |
            while read -r pid; do
                name=
                read -r name 2>/dev/null <"/proc/$pid/comm"
                case $name in postgres | pgweir) echo "$pid" ;; esac
            done
    else
        ps -A -o pid=,command= | grep -F -- "-D $1/" | grep -v grep | awk '{ print $1 }'
    fi
}

# A killed server leaves its System V segment; line 7 of postmaster.pid is "key id".
release() {
    [ -f "$1/postmaster.pid" ] || return 0
    ipcrm -m "$(sed -n '7s/.* //p' "$1/postmaster.pid")" 2>/dev/null
    true
}

watch() {
    trap '' HUP INT TERM QUIT
    cd /
    while read -r _; do :; done
    tries=0
    while pids=$(servers "$1") && [ -n "$pids" ] && [ "$tries" -lt 100 ]; do
        # Unquoted: one argument per process.
        kill -s KILL $pids 2>/dev/null
        tries=$((tries + 1))
    done
    for data in "$1"/*/data; do
        release "$data"
    done
    [ ! -f "$1/cleanup.sh" ] || sh "$1/cleanup.sh"
    rm -rf "$1"
}

"$@"
