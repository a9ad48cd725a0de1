# Who this machine is to the others: CA, certificate and key, for every service between machines.
{% from 'pki/map.jinja' import pki with context %}
{% set machine = salt['topology.machine']() %}

machine key group:
  group.present:
    - name: stack-pki
    - system: true

machine certificate folder:
  file.directory:
    - name: /etc/stack/pki
    - mode: '0755'
    - makedirs: true

machine certificate:
  pki.present:
    - machine: {{ machine.name | json }}
    - addresses: {{ ['127.0.0.1', machine.address] | unique | list | json }}
    - days: {{ pki.days | json }}
    - ca_days: {{ pki.ca_days | json }}
    - renew_days: {{ pki.renew_days | json }}
    - own: {{ (salt['topology.machines']() | length == 1) | json }}
    - require:
      - group: machine key group
      - file: machine certificate folder
