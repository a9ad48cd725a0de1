# The journal of this machine, to the central logs on the monitor.
{% from 'shipper/map.jinja' import shipper with context %}
{% set logs = salt['endpoints.find']('central-logs') %}
{% set identity = salt['pki.paths']() %}

shipper packages:
  pkg.installed:
    - name: python3-systemd

shipper program:
  checked.files:
    - files:
        /usr/local/libexec/journal-shipper: {source: salt://shipper/files/journal-shipper, mode: '0755'}
    - checks:
        - '{staged}/usr/local/libexec/journal-shipper --help'

shipper running:
  checked.service:
    - name: journal-shipper
    - files:
        /etc/journal-shipper.json: {source: salt://shipper/files/journal-shipper.json.j2}
        /etc/systemd/system/journal-shipper.service: {source: salt://shipper/files/unit.service.j2}
    - context:
        shipper: {{ shipper | json }}
        config:
          host: {{ salt['topology.machine']().name | json }}
          server: {{ logs.address | json }}
          server_name: {{ logs.machine | json }}
          port: {{ logs.port | json }}
          ca: {{ identity.ca | json }}
          certificate: {{ identity.certificate | json }}
          key: {{ identity.key | json }}
          services: {{ salt['logs.collect']() | json }}
    - checks:
        - /usr/local/libexec/journal-shipper --check {staged}/etc/journal-shipper.json
    - watch_files: {{ (['/usr/local/libexec/journal-shipper'] + identity.values() | list) | json }}
    # It reads and tells metrics; whether the monitor is there is not this machine's health.
    - ready: test -s /run/journal-shipper/metrics.json
    - require:
      - pkg: shipper packages
      - checked: shipper program
      - pki: machine certificate
