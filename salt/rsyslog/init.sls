# The central logs: receives what the machines' shippers send, one file a machine and service.
{% from 'rsyslog/map.jinja' import rsyslog with context %}
{% set machines = salt['topology.machines']() %}
{% set own = salt['topology.machine']() %}
{# The monitor reaches itself over loopback where it is alone, else by its address. #}
{% set address = salt['topology.address'](none, own.name) %}
{# A listener each, its own first, so that a certificate's name is compared with the address it comes from:
   rsyslog knows names by listener. All knock at one port (files/senders.nft.j2). #}
{% set peers = [{'name': own.name, 'address': address, 'port': rsyslog.port, 'services': salt['logs.services'](own)}] %}
{% for one in machines if one.name != own.name %}
{% do peers.append({'name': one.name, 'address': one.address, 'port': rsyslog.port + loop.index, 'services': salt['logs.services'](one)}) %}
{% endfor %}

central logs account:
  user.present:
    - name: central-logs
    - system: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin
    - usergroup: true

central logs folder:
  file.directory:
    - name: /var/log/central
    - user: central-logs
    - group: central-logs
    - mode: '0750'
    - makedirs: true
    - require:
      - user: central logs account

rsyslog packages:
  pkg.installed:
    - pkgs: [rsyslog, rsyslog-relp, nftables]

rsyslog running:
  checked.service:
    - name: rsyslog
    - files:
        /etc/rsyslog.conf: {source: salt://rsyslog/files/rsyslog.conf.j2}
        /etc/stack/senders.nft: {source: salt://rsyslog/files/senders.nft.j2}
        /etc/systemd/system/rsyslog.service: {source: salt://rsyslog/files/unit.service}
    - context:
        folder: /var/log/central
        port: {{ rsyslog.port | json }}
        address: {{ address | json }}
        peers: {{ peers | json }}
        files: {{ ([100, machines | length * 20] | max) | json }}
        identity: {{ salt['pki.paths']() | json }}
    - checks:
        - rsyslogd -N1 -f {staged}/etc/rsyslog.conf
        - nft -c -f {staged}/etc/stack/senders.nft
    - uses: {{ salt['pki.paths']().values() | list | json }}
    - require:
      - pkg: rsyslog packages
      - file: central logs folder
      - pki: machine certificate

central logs program:
  checked.files:
    - files:
        /usr/local/bin/central-logs: {source: salt://rsyslog/files/central-logs, mode: '0755'}
    - checks:
        - '{staged}/usr/local/bin/central-logs --help'

central logs trim timer running:
  checked.service:
    - name: central-logs-trim.timer
    - files:
        /etc/central-logs.json: {source: salt://rsyslog/files/central-logs.json.j2}
        /etc/systemd/system/central-logs-trim.service: {source: salt://rsyslog/files/trim.service.j2}
        /etc/systemd/system/central-logs-trim.timer: {source: salt://rsyslog/files/trim.timer}
    - context:
        rsyslog: {{ rsyslog | json }}
    - checks:
        - /usr/local/bin/central-logs check {staged}/etc/central-logs.json
    - require:
      - checked: central logs program
      - checked: rsyslog running
