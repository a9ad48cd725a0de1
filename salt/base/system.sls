# Tools, the project's own folder, names of the peers, the zone of the clock, the resolver.
{% from 'base/map.jinja' import base with context %}

base packages:
  pkg.installed:
    - pkgs: {{ base.packages | json }}

stack folder:
  file.directory:
    - name: /etc/stack
    - mode: '0755'

secrets folder:
  file.directory:
    - name: /etc/stack/secrets
    - mode: '0700'

topology hosts entries:
  file.blockreplace:
    - name: /etc/hosts
    - marker_start: '# BEGIN topology (managed by Salt)'
    - marker_end: '# END topology'
    - append_if_not_found: true
    - content: {{ salt['topology.hosts']() | json }}

timezone:
  timezone.system:
    - name: {{ base.timezone | json }}
    - utc: true

{% if salt['file.file_exists']('/usr/lib/systemd/system/systemd-resolved.service') %}
# Its LLMNR and multicast DNS answer every neighbour on the network; nobody here asks.
resolver without llmnr running:
  checked.service:
    - name: systemd-resolved
    - files:
        /etc/systemd/resolved.conf.d/stack.conf: {source: salt://base/files/resolved.conf}
    - checks:
        - salt://base/files/known_keys.py {staged}/etc/systemd/resolved.conf.d/stack.conf
{% endif %}
