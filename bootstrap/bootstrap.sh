#!/bin/sh
# Puts the pinned Salt on a machine: the same script for the lab's base box, Vagrant's
# machines, cloud droplets and bare servers.
#
#   bootstrap.sh [--wheels DIR]
#
# Run as root on a system that salt/systems.yaml names, with Python 3.11 or later. Every package is checked against
# the hashes in salt.lock. With --wheels the packages come from DIR and no index is asked.
# A second run does nothing; an interrupted one is started over. No compiler is installed.
set -eu
# Whatever the login has set (salt/_executors/environment.py).
umask 022
export LC_ALL=C.UTF-8
unset LANGUAGE POSIXLY_CORRECT
for name in $(env | sed -n 's/^\(PYTHON[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
lock=$here/salt.lock
root=/opt/salt

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

wheels=
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) [ $# -ge 2 ] || die "--wheels needs a folder"; wheels=$2; shift 2 ;;
        --help|-h) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown argument '$1'; see --help" ;;
    esac
done
[ "$(id -u)" = 0 ] || die "must run as root: try 'sudo $0'"
[ -r "$lock" ] || die "$lock is missing: run this from a whole checkout"

# In the lab's base box there is no tree yet.
systems=$here/../salt/systems.yaml
if [ -r "$systems" ]; then
    system() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p" /etc/os-release; }
    if ! grep -q "^$(system VERSION_CODENAME): " "$systems"; then
        known=$(sed -n 's/^[a-z]*: //p' "$systems" | paste -s -d , | sed 's/,/, /g')
        die "$(system PRETTY_NAME) is not supported, nothing was changed; there are states for $known"
    fi
fi

python=/usr/bin/python3
if [ -x "$python" ] && ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    die "$("$python" -V) is too old, nothing was changed: Salt $(sed -n 's/^salt==\([0-9.]*\).*/\1/p' "$lock") needs 3.11 or later, which Debian 12, Ubuntu 24.04 and later have"
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    command -v apt-get >/dev/null || die "no python3-venv and no apt-get: not a Debian or Ubuntu machine"
    say "installing python3-venv (Salt lives in its own virtual environment)"
    export DEBIAN_FRONTEND=noninteractive
    # apt does nothing after an interrupted run; what waits for other packages is apt's to bring.
    [ -z "$(find /var/lib/dpkg/updates -name '[0-9]*')" ] || dpkg --configure --pending >/dev/null 2>&1 || true
    apt-get update -q >/dev/null
    apt-get -o DPkg::Lock::Timeout=300 install -q -y --fix-broken --no-install-recommends python3 python3-venv ca-certificates >/dev/null
fi

# The environment is named by all that makes it: lock, interpreter, this script.
key=$( { cat "$lock" "$0" "$here/install.py"; "$python" -VV; } | sha256sum | cut -c1-12)
env=$root-$key
salt=$(sed -n 's/^salt==\([0-9.]*\).*/\1/p' "$lock")

if [ -e "$env/.complete" ] && [ "$(readlink "$root" 2>/dev/null)" = "$env" ]; then
    say "Salt $salt is in place"
    exit 0
fi

if [ ! -e "$env/.complete" ]; then
    say "installing Salt $salt with $("$python" -V)"
    rm -rf "$env"
    "$python" -m venv "$env"
    # The index's own settings (proxy, mirror, CA) may come from PIP_* in the environment.
    "$env/bin/python" "$here/install.py" "$lock" ${wheels:+--wheels "$wheels"} ||
        die "the packages of $lock could not be installed (network? proxy? see above)"
    # Nothing of the build stays; pip itself neither: this environment never changes.
    "$env/bin/pip" --disable-pip-version-check uninstall -q -y wheel setuptools pip
    find "$env" -depth -type d \( -name tests -o -name test \) -path '*/site-packages/*' -not -path '*/salt/*' -exec rm -rf {} +
    say "byte-compiling (makes every salt-call about twice as fast)"
    "$env/bin/python" -m compileall -q -j 0 "$env/lib" >/dev/null || true
    "$env/bin/salt-call" --version >/dev/null || die "salt-call does not start: remove $env and run again"
    : > "$env/.complete"
fi

ln -sfn "$env" "$root.new" && mv -T "$root.new" "$root"
# Python's own switches in somebody's environment must not change Salt, nor keep it from starting.
for tool in salt-call salt-cloud salt-ssh; do
    printf '#!/bin/sh\nexec %s/bin/python -EX utf8 %s/bin/%s "$@"\n' "$root" "$root" "$tool" > "/usr/local/bin/.$tool.new"
    chmod 0755 "/usr/local/bin/.$tool.new"
    mv -T "/usr/local/bin/.$tool.new" "/usr/local/bin/$tool"
done
# Environments of earlier locks, unless an apply is just running from one.
install -d -m 0700 /run/stack
exec 9>>/run/stack/apply.lock
if flock --nonblock 9; then
    for old in "$root"-????????????; do
        [ "$old" = "$env" ] || rm -rf "$old"
    done
fi
say "Salt $salt is ready in $root"
