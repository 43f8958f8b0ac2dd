#!/bin/sh
# Writes the secrets that docker-compose.yml asks for to .env in the project's root (0600), each made at random.
# What the file holds already stays as it is, so running this again changes nothing.
#
#   deploy/make-secrets.sh [FILE]
set -eu
umask 077

fail() {
    echo "make-secrets: $*" >&2
    exit 1
}

case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$0"
        exit 0
        ;;
    -*) fail "no such option: $1" ;;
esac
file=${1:-$(dirname "$0")/../.env}
command -v openssl >/dev/null || fail "openssl is not installed"
touch "$file" || fail "cannot write $file"
chmod 600 "$file" || fail "cannot keep $file to its owner"

made=
for name in PARLEY_SECRET_KEY POSTGRES_PASSWORD REDIS_PASSWORD; do
    if ! grep -q "^$name=." "$file"; then
        secret=$(openssl rand -hex 32) || fail "openssl rand failed"
        # A file whose last line is not ended would swallow the first of ours.
        [ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
        echo "$name=$secret" >>"$file"
        made="$made $name"
    fi
done
echo "make-secrets:${made:- nothing to add} in $file"
