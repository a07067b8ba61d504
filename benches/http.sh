#!/usr/bin/env bash
# Our proxy beside Envoy, nginx and HAProxy, one worker each, in one run.
#
# The proxy under test has core 0 to itself; backend and load generator share core 1. Peers take turns (A B C D
# A B C D ...), and the figure compared is CPU microseconds per request: utime + stime of the proxy process over
# the requests that the load generator counted. Throughput is capped by core 1, CPU per request is not. Medians
# over ROUNDS, and the ratio to Envoy in the same run; absolute figures drift from machine to machine.
#
#   ROUNDS=3 SECONDS_EACH=4 PEERS="portolan envoy nginx haproxy" MODES="h1 h2 rate idle start" benches/http.sh
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-3} each=${SECONDS_EACH:-4}
read -ra peers <<<"${PEERS:-portolan envoy nginx haproxy}"
read -ra modes <<<"${MODES:-h1 h2 rate idle start}"
profile=${PROFILE:-release}

[ "$(nproc)" -ge 2 ] || { echo "two cores are needed: one for the proxy, one for the load" >&2; exit 1; }
deploy/dev/bench.sh
bin=$PWD/.dev/bin
if [ "$profile" = release ]; then build=--release; else build="--profile $profile"; fi
# shellcheck disable=SC2086
PROTOC=$bin/protoc cargo build --quiet $build -p data-plane --bins
proxy=$PWD/target/$profile/portolan-proxy

work=$(mktemp -d)
pids=()
cleanup() { kill -9 "${pids[@]}" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
ulimit -n 20000 2>/dev/null || true

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
backend=$(free_port)
declare -A port admin pid
for peer in "${peers[@]}"; do port[$peer]=$(free_port); admin[$peer]=$(free_port); done

body=$(printf 'x%.0s' $(seq 1024))
nginx_base() { # NAME: what both nginx instances say
    echo "worker_processes 1; daemon off; master_process off; pid $work/$1.pid; error_log $work/$1.err;
        worker_rlimit_nofile 19000; events { worker_connections 9000; use epoll; multi_accept on; }
        http { access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; tcp_nodelay on;
        client_body_temp_path $work/$1.a; proxy_temp_path $work/$1.b; fastcgi_temp_path $work/$1.c;
        uwsgi_temp_path $work/$1.d; scgi_temp_path $work/$1.e;"
}
{ nginx_base backend; echo "default_type text/plain;
    server { listen 127.0.0.1:$backend backlog=4096 reuseport; location / { return 200 \"$body\"; } } }"; } >"$work/backend.conf"
{ nginx_base nginx; echo "upstream up { server 127.0.0.1:$backend; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h; }
    server { listen 127.0.0.1:${port[nginx]:-1} backlog=8192; location / { proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection \"\"; proxy_set_header Host \$http_host; } }
    server { listen 127.0.0.1:$((${port[nginx]:-1} + 1)) http2 backlog=8192; location / { proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection \"\"; proxy_set_header Host \$http_host; } } }"; } >"$work/nginx.conf"
cat >"$work/haproxy.cfg" <<CONF
global
  nbthread 1
  maxconn 9000
  ulimit-n 19000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option http-keep-alive
  http-reuse always
frontend f
  bind 127.0.0.1:${port[haproxy]:-1} backlog 8192
  bind 127.0.0.1:$((${port[haproxy]:-1} + 1)) proto h2 backlog 8192
  default_backend b
backend b
  server s1 127.0.0.1:$backend pool-max-conn -1 pool-purge-delay 1h
CONF
# The same bootstrap for Envoy and for us; codec AUTO serves HTTP/1.1 and prior-knowledge HTTP/2 on one port.
bootstrap() { # PEER
    cat <<CONF
admin: {address: {socket_address: {address: 127.0.0.1, port_value: ${admin[$1]}}}}
static_resources:
  listeners:
  - name: bench
    address: {socket_address: {address: 127.0.0.1, port_value: ${port[$1]}}}
    tcp_backlog_size: 8192
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: up}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: up
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 10000, max_pending_requests: 10000, max_requests: 10000}]}
    load_assignment:
      cluster_name: up
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $backend}}}}]}]
CONF
}
for peer in portolan envoy; do [ -n "${port[$peer]:-}" ] && bootstrap $peer >"$work/$peer.yaml"; done

launch() { # PEER: runs it on core 0 in the background
    local command
    case $1 in
        portolan) command=("$proxy" -c "$work/portolan.yaml" --concurrency 1 -l error) ;;
        envoy) command=("$PWD/.dev/python/bin/envoy" -c "$work/envoy.yaml" --concurrency 1 -l error --disable-hot-restart) ;;
        nginx) command=("$bin/nginx" -c "$work/nginx.conf") ;;
        haproxy) command=("$bin/haproxy" -db -f "$work/haproxy.cfg") ;;
    esac
    taskset -c 0 "${command[@]}" >"$work/$1.log" 2>&1 &
    pid[$1]=$!
    pids+=($!)
    disown # so that bash does not report its end
}
answers() { curl -s -o /dev/null -m 2 "http://127.0.0.1:${port[$1]}/"; }
await() { # PEER: until it answers
    for _ in $(seq 3000); do answers "$1" && return; done
    echo "$1 does not answer:" >&2; cat "$work/$1.log" >&2; exit 1
}
cpu_us() { awk '{n = split($0, a, ") "); split(a[n], b, " "); print (b[12] + b[13]) * 10000}' "/proc/$1/stat"; }
rss_kb() { awk '/VmRSS/ {print $2}' "/proc/$1/status"; }

taskset -c 1 "$bin/nginx" -c "$work/backend.conf" >"$work/backend.log" 2>&1 &
pids+=($!)
disown
for peer in "${peers[@]}"; do launch "$peer"; await "$peer"; done

results="$work/results"; : >"$results"
record() { echo "$1 $2 $3" >>"$results"; } # METRIC PEER VALUE
measure() { # MODE PEER: one round
    local before after out n load="taskset -c 1"
    before=$(cpu_us "${pid[$2]}")
    case $1 in
        h1)
            out=$($load "$bin/wrk" -t1 -c64 -d"${each}s" "http://127.0.0.1:${port[$2]}/")
            n=$(awk '/requests in/ {print $1}' <<<"$out")
            record "h1 requests/s" "$2" "$(awk '/Requests\/sec/ {print $2}' <<<"$out")"
            if grep -qE 'Non-2xx|Socket errors' <<<"$out"; then echo "$2: $out" >&2; fi ;;
        h2)
            local to=${port[$2]}
            case $2 in nginx | haproxy) to=$((to + 1)) ;; esac
            out=$($load "$bin/h2load" -c8 -m32 -t1 -D "$each" "http://127.0.0.1:$to/" 2>&1)
            n=$(awk '/^requests:/ {print $8}' <<<"$out") ;;
        rate)
            out=$($load "$bin/h2load" --h1 -c64 -t1 --rps 150 -D "$each" "http://127.0.0.1:${port[$2]}/" 2>&1)
            n=$(awk '/^requests:/ {print $8}' <<<"$out") ;;
    esac
    after=$(cpu_us "${pid[$2]}")
    record "$1 cpu us/request" "$2" "$(awk -v a="$before" -v b="$after" -v n="$n" 'BEGIN {printf "%.2f", (b - a) / (n + 1e-9)}')"
}

for mode in "${modes[@]}"; do
    case $mode in
        h1 | h2 | rate)
            for round in $(seq "$rounds"); do
                echo "$mode: round $round of $rounds" >&2
                for peer in "${peers[@]}"; do measure "$mode" "$peer"; done
            done ;;
        idle) for peer in "${peers[@]}"; do record "rss after load, MiB" "$peer" "$(($(rss_kb "${pid[$peer]}") / 1024))"; done ;;
        start)
            for round in $(seq "$rounds"); do
                for peer in "${peers[@]}"; do
                    kill -9 "${pid[$peer]}"; while kill -0 "${pid[$peer]}" 2>/dev/null; do sleep 0.01; done
                    from=$(date +%s%N); launch "$peer"; await "$peer"; to=$(date +%s%N)
                    record "start to first answer, ms" "$peer" "$(((to - from) / 1000000))"
                    record "rss when idle, MiB" "$peer" "$(($(rss_kb "${pid[$peer]}") / 1024))"
                done
            done ;;
    esac
done

echo
awk '
    {peer = $(NF - 1); value = $NF; metric = $0; sub(/ [^ ]+ [^ ]+$/, "", metric)
     if (!(metric in seen)) {seen[metric] = 1; metrics[++m] = metric}
     if (!(peer in known)) {known[peer] = 1; peers[++p] = peer}
     key = metric SUBSEP peer; values[key] = values[key] " " value}
    function median(list,   a, n, i, j, t) {
        n = split(list, a, " ")
        for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (a[j] + 0 < a[i] + 0) {t = a[i]; a[i] = a[j]; a[j] = t}
        low = a[1]; high = a[n]
        return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
    }
    END {
        printf "%-28s %-10s %10s %10s %21s\n", "", "peer", "median", "to Envoy", "[min - max]"
        for (i = 1; i <= m; i++) {
            envoy = median(values[metrics[i] SUBSEP "envoy"])
            for (j = 1; j <= p; j++) {
                v = median(values[metrics[i] SUBSEP peers[j]])
                ratio = envoy > 0 ? sprintf("%.2f", v / envoy) : "-"
                printf "%-28s %-10s %10.2f %10s %10s - %-8s\n", (j == 1 ? metrics[i] : ""), peers[j], v, ratio, low, high
            }
        }
    }' "$results"
