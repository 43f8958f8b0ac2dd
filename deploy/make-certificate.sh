#!/bin/sh
# Makes a certificate for trying Parley over TLS on one's own machines. For the public internet get one from a
# certificate authority instead, and put it in the same place under the same names.
#
#   deploy/make-certificate.sh [--force] [--out DIR] [NAME…]
#
# NAME is a host name or an IP address; a host name with a dot also covers its subdomains, where tenants live.
# (Clients refuse *.localhost: name those hosts one by one.) Without a NAME: localhost, 127.0.0.1 and ::1.
# DIR (deploy/certificates) gets
#
#   privkey.pem    the key (0600)
#   fullchain.pem  the certificate, and the authority that signed it
#   ca.pem         that authority, for clients to trust: curl --cacert ca.pem, or a browser's settings
#
# The authority's own key is thrown away at once, so whoever trusts ca.pem trusts this one certificate and nothing
# that could be made later. A certificate that is there is left alone; --force replaces it.
set -eu
umask 077

DAYS=365

fail() {
    echo "make-certificate: $*" >&2
    exit 1
}

force=
out=$(dirname "$0")/certificates
names=
while [ $# -gt 0 ]; do
    case $1 in
        --force) force=yes ;;
        --out)
            [ $# -ge 2 ] || fail "--out needs a directory"
            out=$2
            shift
            ;;
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$0"
            exit 0
            ;;
        -*) fail "no such option: $1" ;;
        '' | *[!A-Za-z0-9.:-]* | *..* | .* | *.) fail "'$1' is neither a host name nor an IP address" ;;
        *) names="$names $1" ;;
    esac
    shift
done
[ -n "$names" ] || names="localhost 127.0.0.1 ::1"

alternatives=
for name in $names; do
    case $name in
        *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) entry="IP:$name" ;;
        *.*) entry="DNS:$name,DNS:*.$name" ;;
        *) entry="DNS:$name" ;;
    esac
    alternatives=$alternatives${alternatives:+,}$entry
done

command -v openssl >/dev/null || fail "openssl is not installed"
if [ -z "$force" ]; then
    for file in privkey.pem fullchain.pem; do
        if [ -e "$out/$file" ]; then
            echo "make-certificate: $out/$file is there already; --force replaces it"
            exit 0
        fi
    done
fi
mkdir -p "$out" || fail "cannot make $out"

work=$(mktemp -d "$out/.making.XXXXXX") || fail "cannot write to $out"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Each output is small, so it is shown only when openssl fails.
run_openssl() {
    openssl "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2 && fail "openssl $1 failed"; }
}

run_openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days "$DAYS" \
    -subj "/O=Parley/CN=Parley local authority" -keyout "$work/ca.key" -out "$work/ca.pem" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign"
run_openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 \
    -subj "/O=Parley/CN=Parley local certificate" -keyout "$work/privkey.pem" -out "$work/request.pem"
cat >"$work/extensions" <<END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName=$alternatives
END
run_openssl x509 -req -in "$work/request.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
    -sha256 -days "$DAYS" -extfile "$work/extensions" -out "$work/certificate.pem"
rm -f "$work/ca.key"
cat "$work/certificate.pem" "$work/ca.pem" >"$work/fullchain.pem"
chmod 644 "$work/fullchain.pem" "$work/ca.pem"

# The key first: a certificate never lies there without its key.
for file in privkey.pem fullchain.pem ca.pem; do
    mv -f "$work/$file" "$out/$file"
done
echo "make-certificate: $out/fullchain.pem is good for $DAYS days, for $alternatives"
