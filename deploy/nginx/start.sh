#!/bin/sh
# Runs nginx as Parley's proxy, from nginx.conf.template beside this file and the environment below. It replaces
# itself by nginx, so signals reach nginx: QUIT ends it when its requests are done, HUP reads the certificate again.
#
#   PROXY_INSTANCES      host:port of each instance, separated by spaces; needed
#   PROXY_HTTP_LISTEN    where plain HTTP is listened for (80)
#   PROXY_HTTPS_LISTEN   where TLS is listened for (443)
#   PROXY_PUBLIC_PORT    the port clients know for TLS, for redirects (443)
#   PROXY_CERTIFICATES   directory of fullchain.pem and privkey.pem (/etc/parley/certificates)
#   PROXY_ACME_DIR       web root for ACME's HTTP-01 challenges (/var/lib/parley-acme)
#   PROXY_RUN_DIR        where nginx keeps its pid, its configuration and request bodies (/run/parley-proxy)
#   PROXY_BEHIND         networks of load balancers in front, whose X-Forwarded-For is believed (none)
#   PROXY_MAX_BODY       largest request body; keep it above PARLEY_MAX_BODY_BYTES (2m)
#   PROXY_STREAM_TIMEOUT silence after which a stream is given up (75s)
#   PROXY_WORKERS        worker processes (auto)
#   PROXY_CONNECTIONS    connections a worker holds, two for each client (16384)
#   PROXY_LOG_LEVEL      of the error log (crit)
#
# With --check it writes the configuration, lets nginx judge it, and ends.
set -eu

fail() {
    echo "parley proxy: $*" >&2
    exit 1
}

HERE=$(cd "$(dirname "$0")" && pwd)
HTTP_LISTEN=${PROXY_HTTP_LISTEN:-80}
HTTPS_LISTEN=${PROXY_HTTPS_LISTEN:-443}
CERTIFICATES=${PROXY_CERTIFICATES:-/etc/parley/certificates}
ACME_DIR=${PROXY_ACME_DIR:-/var/lib/parley-acme}
RUN_DIR=${PROXY_RUN_DIR:-/run/parley-proxy}
MAX_BODY=${PROXY_MAX_BODY:-2m}
STREAM_TIMEOUT=${PROXY_STREAM_TIMEOUT:-75s}
WORKERS=${PROXY_WORKERS:-auto}
CONNECTIONS=${PROXY_CONNECTIONS:-16384}
LOG_LEVEL=${PROXY_LOG_LEVEL:-crit}

PUBLIC_PORT=${PROXY_PUBLIC_PORT:-443}
case $PUBLIC_PORT in
    443) PUBLIC_PORT= ;;
    *[!0-9]*) fail "PROXY_PUBLIC_PORT=$PUBLIC_PORT is not a port" ;;
    *) PUBLIC_PORT=:$PUBLIC_PORT ;;
esac

# Three failures rest an instance for a second or two. A refused connection costs next to nothing, so this is for
# hosts that do not answer at all; and it must be short, or the instance that came back a moment ago is still resting
# when a rolling deploy takes the next one away. Readiness never rests one.
INSTANCES=
READINESS=
for address in ${PROXY_INSTANCES:-}; do
    case $address in
        *[!A-Za-z0-9.:_-]*) fail "PROXY_INSTANCES: $address is not host:port" ;;
        *:*) ;;
        *) fail "PROXY_INSTANCES: $address has no port" ;;
    esac
    INSTANCES="$INSTANCES server $address max_fails=3 fail_timeout=1s;"
    READINESS="$READINESS server $address max_fails=0;"
done
[ -n "$INSTANCES" ] || fail "PROXY_INSTANCES is not set; list the instances, like: parley-1:8080 parley-2:8080"

REAL_IP=
for network in ${PROXY_BEHIND:-}; do
    case $network in
        *[!0-9A-Fa-f.:/]*) fail "PROXY_BEHIND: $network is not a network, like 10.0.0.0/8" ;;
    esac
    REAL_IP="$REAL_IP set_real_ip_from $network;"
done

for file in fullchain.pem privkey.pem; do
    [ -r "$CERTIFICATES/$file" ] || fail "cannot read $CERTIFICATES/$file; make one with deploy/make-certificate.sh"
done

command -v nginx >/dev/null || fail "nginx is not installed"
# `http2` moved from `listen` to a line of its own in 1.25.1.
case $(nginx -v 2>&1) in
    */1.[0-9].* | */1.1[0-9].* | */1.2[0-4].* | */1.25.0*) LISTEN_HTTP2=' http2' HTTP2= ;;
    *) LISTEN_HTTP2='' HTTP2='http2 on;' ;;
esac

mkdir -p "$RUN_DIR"
export HERE HTTP_LISTEN HTTPS_LISTEN CERTIFICATES ACME_DIR RUN_DIR MAX_BODY STREAM_TIMEOUT WORKERS CONNECTIONS \
    LOG_LEVEL PUBLIC_PORT INSTANCES READINESS REAL_IP LISTEN_HTTP2 HTTP2
awk '
    {
        line = ""
        while (match($0, /@[A-Z_0-9]+@/)) {
            name = substr($0, RSTART + 1, RLENGTH - 2)
            if (!(name in ENVIRON)) {
                print "parley proxy: the template asks for " name > "/dev/stderr"
                exit 1
            }
            line = line substr($0, 1, RSTART - 1) ENVIRON[name]
            $0 = substr($0, RSTART + RLENGTH)
        }
        print line $0
    }
' "$HERE/nginx.conf.template" >"$RUN_DIR/nginx.conf"

if [ "${1:-}" = --check ]; then
    exec nginx -t -e stderr -p "$RUN_DIR" -c "$RUN_DIR/nginx.conf"
fi
exec nginx -e stderr -p "$RUN_DIR" -c "$RUN_DIR/nginx.conf" -g 'daemon off;'
