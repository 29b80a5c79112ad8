# Sourced by the examples' run scripts, which set `base`, the first port in their files.
#
#   run [FIRST_PORT]     LBD=path/to/lbd, if it is not in PATH
#
# Exit code 0: it works. 1: it does not. 77: skipped, a program is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
first=${1:-$base}
lbd=${LBD:-lbd}
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
cd "$work"
export XDG_RUNTIME_DIR="$work" # what lbd leaves for its successors goes with it
unset RUNTIME_DIRECTORY
pids=

# Ends what was started, and nothing else.
finish() {
    code=$?
    trap - EXIT
    signal=TERM
    if [ $code -ne 0 ] && [ $code -ne 77 ]; then
        head -n 30 ./*.log >&2
        signal=KILL
    fi
    for pid in $pids; do kill -s $signal "$pid" 2>/dev/null || true; done
    wait
    cd / && rm -rf "$work"
    exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM

need() {
    for program; do
        command -v "$program" >/dev/null || { echo "skipped: there is no $program on this machine"; exit 77; }
    done
}

# Copies files of the example, with the ports from $base on replaced by those from $first on.
put() {
    edit="s/${base%?}\\([0-9]\\)/@\\1@/g"
    for n in 0 1 2 3 4 5 6 7 8 9; do edit="$edit; s/@$n@/$((first + n))/g"; done
    for file; do sed "$edit" "$here/$file" >"$file"; done
}

# start LOG COMMAND...: runs it until the end of the script.
start() {
    log=$1
    shift
    "$@" >"$log.log" 2>&1 </dev/null &
    pids="$pids $!"
}

# Repeats a command until it succeeds, for 20 s at most.
await() {
    tries=200
    until "$@" >await.log 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "without success: $*" >&2; cat await.log >&2; return 1; }
        sleep 0.1
    done
}

# Whether both servers listen: without checks lbd takes them for up.
both_listen() {
    for n in 1 2; do grep -q "$(printf ' 0100007F:%04X ' $((first + n)))" /proc/net/udp || return 1; done
}

# Whether lbd has found both servers up.
both_up() {
    for n in 0 1; do grep -q "server=$n .*state=\"up\"" logs/balancer/balancer.log || return 1; done
}

start_lbd() {
    await both_listen
    "$lbd" check lbd.json >lbd.log 2>&1
    "$lbd" balancer --config lbd.json >figures.json 2>lbd.log </dev/null &
    lbd_pid=$!
    pids="$pids $lbd_pid"
    await grep -q ^pool lbd.log
}

# Ends lbd; it says what it did, also by server.
stop_lbd() {
    kill "$lbd_pid"
    wait "$lbd_pid"
    tail -n 1 lbd.log
    tail -n 1 figures.json | tr '{' '\n' |
        sed -n 's/.*"addr":"\([^"]*\)".*"dispatched":\([0-9]*\).*/  \1 got \2/p' | tee by-server.log
    [ "$(grep -vc ' 0$' by-server.log)" -eq 2 ] || { echo "one server got nothing" >&2; exit 1; }
}
