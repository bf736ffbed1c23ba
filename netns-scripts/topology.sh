# Sourced by every topology here, not run directly. It gives all of them the same verbs, for persons and for tests.
#
# A topology defines these before it sources this file and calls `topology_main "$@"`:
#   nodes            prints the node names, in order (a function, because hub-and-spokes has a variable number)
#   addresses        prints one line per node: NAME IPV4[,IPV4] IPV6[,IPV6]   (- for none)
#   build            makes links, addresses and routes. The namespaces exist already
#   option NAME VAL  optional: handles an option of the topology (returns 1 if it is not one)
#   change NAME VAL  optional: changes such a value of a running topology (the verb `set`)
#
# Everything is in namespaces named PREFIX-NODE. Links are made inside them, so the caller's namespace never shows any.
# Deleting the namespaces removes everything. There is no other state.

set -euo pipefail

topology=$(basename "$0")
prefix=
made=()

say() { printf '%s: %s\n' "$topology" "$*" >&2; }

die() {
    local code=$1
    shift
    say "$*"
    exit "$code"
}

usage() {
    # The head comment of the script is its manual.
    sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"
    cat <<USAGE

Usage:
  $topology up [PREFIX] [options]          make it; prints what 'show' prints. Without PREFIX a random one
  $topology show PREFIX                    one line a node: NAME NAMESPACE IPV4 IPV6
  $topology exec PREFIX NODE COMMAND...    run COMMAND in the node's namespace
  $topology set PREFIX NAME VALUE          change an option of the running topology (those marked *)
  $topology down PREFIX                    end every process inside, remove the namespaces and UAPI sockets
  $topology run [options] -- COMMAND...    up, COMMAND with NODE=NAMESPACE in its environment, down
  $topology --help                         this

PREFIX: 1 to 8 lower-case letters and digits. Needs root and iproute2 (nftables where it says so).
Exit codes: 0 done, 1 failed, 2 bad usage, 3 refused by this host (not root, or a tool or kernel feature is missing).
USAGE
}

# ---- building blocks of topologies ----

ns() { printf '%s-%s' "$prefix" "$1"; }

# in_node NODE COMMAND...
in_node() {
    local node=$1
    shift
    nsenter --net="/run/netns/$(ns "$node")" "$@"
}

# join NODE LINK NODE LINK [MTU]: a veth between two nodes, under the given link names.
join() {
    ip -n "$(ns "$1")" link add "$2" type veth peer name "$4" netns "$(ns "$3")"
    local mtu=${5:-1500}
    ip -n "$(ns "$1")" link set "$2" mtu "$mtu" up
    ip -n "$(ns "$3")" link set "$4" mtu "$mtu" up
}

# address NODE LINK ADDRESS/PREFIX...: IPv6 without duplicate address detection, so that it can be used at once.
address() {
    local node=$1 link=$2 each
    shift 2
    for each; do
        case $each in
        *:*)
            ip -n "$(ns "$node")" addr add "$each" dev "$link" nodad
            address_is_ours "$node" "${each%/*}"
            ;;
        *) ip -n "$(ns "$node")" addr add "$each" dev "$link" ;;
        esac
    done
}

# The kernel still delivers to an IPv6 address only a moment after it was added, because a work item makes the route.
# (Without LD_PRELOAD: Debian 12's ip has an overlapping strncpy here, which ends it under an address sanitiser.)
address_is_ours() {
    for _ in {1..200}; do
        [[ -n $(env -u LD_PRELOAD ip -n "$(ns "$1")" -6 route show table local "$2") ]] && return
        sleep 0.02
    done
    die 1 "the address $2 of node $1 did not come up within 4 s"
}

# route NODE VIA: the node's default route, of the family of VIA.
route() {
    case $2 in
    *:*) ip -n "$(ns "$1")" -6 route add default via "$2" ;;
    *) ip -n "$(ns "$1")" route add default via "$2" ;;
    esac
}

# forwards NODE: the node is a router for both families.
forwards() {
    in_node "$1" sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
}

# ---- the verbs ----

check_prefix() {
    [[ $1 =~ ^[a-z0-9]{1,8}$ ]] || die 2 "PREFIX must be 1 to 8 lower-case letters and digits, not '$1'"
    prefix=$1
}

check_host() {
    [[ $(id -u) = 0 ]] || die 3 "needs root for network namespaces: run it with sudo, or inside 'unshare -Urnm'"
    local tool
    for tool in ip nsenter sysctl ${needs:-}; do
        command -v "$tool" >/dev/null || die 3 "'$tool' is not installed (Debian: apt install iproute2 util-linux procps nftables)"
    done
    [[ -d /run/netns ]] || mkdir -p /run/netns
}

random_prefix() { printf 'ur%s' "$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')"; }

namespaces() {
    ip netns list | awk -v p="$prefix-" 'index($1, p) == 1 {print $1}'
}

show() {
    local name four six
    while read -r name four six; do
        [[ -e /run/netns/$(ns "$name") ]] || die 1 "no topology with prefix '$prefix' is up (try: ip netns list)"
        printf '%-6s %-16s %-22s %s\n' "$name" "$(ns "$name")" "$four" "$six"
    done < <(addresses)
}

# Removes everything with this prefix: processes first (SIGTERM, then SIGKILL), then UAPI sockets of their interfaces,
# then the namespaces.
take_down() {
    local each pids link tries
    for each in "$@"; do
        for link in $(ip -n "$each" -o link show 2>/dev/null | awk -F': ' '{sub(/@.*/, "", $2); print $2}'); do
            # Only TUN interfaces have a UAPI socket, and never one of these names.
            case $link in lo | under* | to-*) continue ;; esac
            links+=("$link")
        done
        pids=$(ip netns pids "$each" 2>/dev/null || true)
        # shellcheck disable=SC2086
        [[ -z $pids ]] || kill $pids 2>/dev/null || true
    done
    for each in "$@"; do
        tries=20
        while pids=$(ip netns pids "$each" 2>/dev/null || true) && [[ -n $pids && $tries -gt 0 ]]; do
            sleep 0.1
            tries=$((tries - 1))
        done
        # shellcheck disable=SC2086
        [[ -z $pids ]] || kill -9 $pids 2>/dev/null || true
        ip netns del "$each" 2>/dev/null || true
    done
    for link in ${links[@]+"${links[@]}"}; do
        rm -f "/var/run/wireguard/$link.sock"
    done
}
links=()

undo() {
    [[ ${#made[@]} -eq 0 ]] || take_down "${made[@]}"
    made=()
}

up() {
    check_host
    local node
    while read -r node; do
        [[ ! -e /run/netns/$(ns "$node") ]] || die 1 "prefix '$prefix' is in use: $topology down $prefix, or give another"
    done < <(nodes)
    trap undo EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    while read -r node; do
        ip netns add "$(ns "$node")"
        made+=("$(ns "$node")")
        # IPv6 link-local addresses at once too: duplicate detection would delay the first packets by seconds.
        in_node "$node" sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
        ip -n "$(ns "$node")" link set lo up
    done < <(nodes)
    build
}

options() {
    # Takes --name=value and --name value; leaves the rest in `rest`.
    rest=()
    while [[ $# -gt 0 ]]; do
        case $1 in
        --)
            shift
            rest+=("$@")
            return
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        --*=*)
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
            ;;&
        --*)
            [[ $# -ge 2 ]] || die 2 "$1 needs a value"
            declare -F option >/dev/null && option "${1#--}" "$2" || die 2 "no such option: $1 (try --help)"
            shift 2
            ;;
        *)
            rest+=("$1")
            shift
            ;;
        esac
    done
}

# number NAME VALUE LOW HIGH: does nothing if VALUE is such a number, otherwise exits with 2.
number() {
    [[ $2 =~ ^[0-9]{1,6}$ ]] && [[ 10#$2 -ge $3 && 10#$2 -le $4 ]] || die 2 "$1 must be a number from $3 to $4, not '$2'"
}

topology_main() {
    local verb=${1:---help}
    [[ $# -eq 0 ]] || shift
    case $verb in
    --help | -h | help) usage ;;
    up)
        options "$@"
        [[ ${#rest[@]} -le 1 ]] || die 2 "up takes one PREFIX"
        check_prefix "${rest[0]:-$(random_prefix)}"
        up
        made=()
        show
        ;;
    show)
        [[ $# -eq 1 ]] || die 2 "show takes a PREFIX"
        check_prefix "$1"
        show
        ;;
    exec)
        [[ $# -ge 3 ]] || die 2 "exec takes PREFIX NODE COMMAND..."
        check_prefix "$1"
        [[ -e /run/netns/$(ns "$2") ]] || die 1 "no node '$2' in '$prefix'"
        exec ip netns exec "$(ns "$2")" "${@:3}"
        ;;
    set)
        [[ $# -eq 3 ]] || die 2 "set takes PREFIX NAME VALUE"
        check_prefix "$1"
        show >/dev/null
        declare -F change >/dev/null && change "$2" "$3" || die 2 "'$2' cannot be changed while it runs (try --help)"
        ;;
    down)
        [[ $# -eq 1 ]] || die 2 "down takes a PREFIX"
        check_prefix "$1"
        local all=()
        mapfile -t all < <(namespaces)
        [[ ${#all[@]} -gt 0 ]] || die 1 "no topology with prefix '$prefix' is up"
        take_down "${all[@]}"
        ;;
    run)
        options "$@"
        [[ ${#rest[@]} -ge 1 ]] || die 2 "run takes a COMMAND after --"
        check_prefix "$(random_prefix)"
        up
        local name space _ code=0
        while read -r name space _; do
            export "$name=$space"
        done < <(show)
        PREFIX=$prefix "${rest[@]}" || code=$?
        exit "$code"
        ;;
    *) die 2 "no such verb: $verb (try --help)" ;;
    esac
}
