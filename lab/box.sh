#!/usr/bin/env bash
# Builds the base box that Vagrant's lxc provider starts machines from, out of distribution
# packages alone, and keeps it in the cache folder.
#
#   lab/box.sh SUITE      prints the path of the .box file on stdout, progress on stderr
#
# The box is an ordinary small Debian server: systemd, ssh, sudo, Python, the `vagrant` user
# with Vagrant's well-known key (which `vagrant up` replaces at once), and the project's
# pinned Salt put there by the same bootstrap that every other machine runs.
set -euo pipefail
# The modes of the machine's files follow from it.
umask 022

suite=${1:?usage: lab/box.sh SUITE (trixie or bookworm)}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/counter-lab}
arch=$(dpkg --print-architecture)

# A box is named by all that goes into it; a change makes a new one.
inputs=("$here/box.sh" "$here/lxc-template" "$here/../bootstrap/bootstrap.sh" "$here/../bootstrap/install.py"
    "$here/../bootstrap/salt.lock")
shopt -s nullglob
authorities=(/usr/local/share/ca-certificates/*.crt)
key=$(cat "${inputs[@]}" "${authorities[@]}" | sha256sum | cut -c1-12)
box=$cache/boxes/$suite-$arch-$key.box
if [ -s "$box" ]; then
    echo "$box"
    exit 0
fi

say() { printf 'box %s: %s\n' "$suite" "$*" >&2; }
mkdir -p "$cache/boxes"
work=$(mktemp -d "$cache/box.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

packages=(
    systemd-sysv systemd-resolved dbus libpam-systemd openssh-server sudo
    iproute2 iputils-ping procps netbase rsync less curl ca-certificates
    python3 python3-venv
)
mkdir -p "$work/tree/etc/systemd/network" "$work/tree/etc/sudoers.d" "$work/tree/etc/dpkg/dpkg.cfg.d" \
    "$work/tree/usr/local/share/ca-certificates" "$work/tree/opt/bootstrap"
cp "${inputs[@]:2}" "$work/tree/opt/bootstrap/"
# A laptop behind an inspecting proxy has that proxy's CA here; its machines need it too.
[ ${#authorities[@]} -eq 0 ] || cp "${authorities[@]}" "$work/tree/usr/local/share/ca-certificates/"
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' \
    > "$work/tree/etc/systemd/network/10-eth0.network"
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' > "$work/tree/etc/sudoers.d/vagrant"
chmod 0440 "$work/tree/etc/sudoers.d/vagrant"
# No wait for the disk at each file of a package: a lab machine outlives no power cut of its host.
echo force-unsafe-io > "$work/tree/etc/dpkg/dpkg.cfg.d/lab"
# The published keys of the installed Vagrant; `vagrant up` replaces them with one of its own.
keys=(/usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub*
    /opt/vagrant/embedded/gems/gems/vagrant-*/keys/vagrant.pub*)
[ ${#keys[@]} -gt 0 ] || { say "Vagrant's public key was not found: is vagrant installed?"; exit 1; }
cat "${keys[@]}" > "$work/authorized_keys"

cat > "$work/customize" <<'HOOK'
#!/bin/sh
set -eu
root=$1 work=$2
inside() { chroot "$root" env -u PYTHONDONTWRITEBYTECODE PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
cp -a --no-preserve=ownership "$work/tree/." "$root/"
inside update-ca-certificates >/dev/null
inside useradd --create-home --shell /bin/bash vagrant
inside install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
cp "$work/authorized_keys" "$root/home/vagrant/.ssh/authorized_keys"
inside chown vagrant:vagrant /home/vagrant/.ssh/authorized_keys
inside chmod 0600 /home/vagrant/.ssh/authorized_keys
inside systemctl -q enable systemd-networkd systemd-resolved ssh
# Nothing in a container to wait for but eth0, and no console to log in on.
inside systemctl -q mask systemd-networkd-wait-online.service getty@.service console-getty.service
# The resolver of the host, for as long as this runs in a chroot of it.
rm -f "$root/etc/resolv.conf"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
env -i PATH="$PATH" ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} \
    chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /opt/bootstrap/bootstrap.sh >&2
# Every machine makes its own.
rm -rf "$root/opt/bootstrap" "$root"/etc/ssh/ssh_host_* "$root/root/.cache"
: > "$root/etc/machine-id"
cat > "$root/etc/systemd/system/ssh-host-keys.service" <<'UNIT'
[Unit]
Description=Make this machine's own ssh host keys
Before=ssh.service ssh.socket
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
UNIT
inside systemctl -q enable ssh-host-keys.service
HOOK
chmod +x "$work/customize"

say "building from distribution packages (once; about a minute)"
mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --customize-hook="$work/customize \"\$1\" $work" \
    "$suite" "$work/rootfs" >&2
# The machine has its own resolver.
ln -sfn /run/systemd/resolve/stub-resolv.conf "$work/rootfs/etc/resolv.conf"

say "packing"
cat > "$work/metadata.json" <<JSON
{"provider": "lxc", "version": "1.0.0", "architecture": "$arch", "key": "$suite-$arch-$key"}
JSON
cat > "$work/lxc-config" <<'CONFIG'
lxc.include = /usr/share/lxc/config/common.conf
lxc.tty.dir =
lxc.apparmor.profile = unconfined
CONFIG
# Under the name that vagrant-lxc looks for.
tar --numeric-owner --xattrs -C "$work" -cf - ./rootfs | zstd -q -1 > "$work/rootfs.tar.gz"
cp "$here/lxc-template" "$work/"
tar -C "$work" -cf "$box.part" ./metadata.json ./lxc-config ./lxc-template ./rootfs.tar.gz
mv "$box.part" "$box"
# Boxes of earlier definitions.
for old in "$cache/boxes/$suite-$arch-"*.box; do
    [ "$old" = "$box" ] || rm -f "$old"
done
say "ready: $(du -h "$box" | cut -f1)"
echo "$box"
