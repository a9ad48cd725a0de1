#!/bin/sh
# Makes a fresh Debian droplet the whole stack. salt-cloud renders this (Jinja), carries it beside
# the tree (file_map) and runs it as root; what fails here fails the creation.
set -eu

name='{{ vm.name.split(".")[0] }}'
domain='{{ vm.get("domain") or "counter.test" }}'
archive=/root/stack.tar.gz
place=/srv/stack

say() { printf 'stack: %s\n' "$*"; }
case $name in
    *[!a-z0-9-]* | [!a-z]* | '') say "a machine's name has a-z, 0-9 and -, not '$name'" >&2; exit 2 ;;
esac

# cloud-init may still be installing the system's own.
if command -v cloud-init >/dev/null; then
    say "waiting for cloud-init"
    cloud-init status --wait >/dev/null 2>&1 || say "cloud-init complains: see 'cloud-init status --long'"
fi

digest=$(sha256sum "$archive" | cut -c1-16)
target=$place.d/$digest
rm -rf "$target.part"
mkdir -p "$target.part"
tar -xz --no-same-owner -f "$archive" -C "$target.part"
# A topology of this one machine, at whatever address it has.
cat > "$target.part/pillar/topologies/$name.yaml" <<YAML
name: $name
domain: $domain
network: 192.0.2.0/24
machines:
  $name:
    address: 192.0.2.10
    roles: [edge, app, store, monitor]
YAML
release=$(sed -n 's/^release: //p' "$target.part/pillar/machine.yaml")
printf 'topology: %s\nname: %s\nrelease: %s\naddress: auto\n' "$name" "$name" "$release" \
    > "$target.part/pillar/machine.yaml"
sync -f "$target.part"
rm -rf "$target"
mv "$target.part" "$target"
ln -sfn "$target" "$place.new"
mv -T "$place.new" "$place"
rm -f "$archive"

cd "$place"
bootstrap/bootstrap.sh
exec bootstrap/converge
