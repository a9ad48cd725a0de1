# The edge: package, then the service on its checked configuration and certificate.
{% from 'haproxy/map.jinja' import haproxy, balancer with context %}
{% set served = salt['backends.served']() %}
{% set names = salt['topology.names']() %}
{% set hosts = served.applications | sum(attribute='hosts', start=[]) %}
{# The other edges, with whom this one shares what it knows of clients. -#}
{% set edges = salt['topology.machines']('edge') if haproxy.limit.enabled else [] %}
{% set peers = edges | rejectattr('name', 'equalto', salt['topology.machine']().name) | list %}
{% set tls = served.applications | sum(attribute='servers', start=[]) | selectattr('tls') | list %}
{% set acme = salt['site.order'](haproxy) if haproxy.acme.directory else {'leader': none, 'followers': false, 'names': []} %}
{% set elsewhere = (tls + peers) | length > 0 or acme.leader or acme.followers %}

include:
  - haproxy.tls
  - haproxy.bans
  - haproxy.acme
  {%- if elsewhere %}
  - pki
  {%- endif %}

haproxy package:
  pkg.installed:
    - name: haproxy
    - require_in:
      - file: certificate folder

{% if balancer %}
# Leaves before it stops.
balancer program packages:
  pkg.installed:
    - pkgs: [python3, curl]

balancer program:
  checked.files:
    - files:
        /usr/local/libexec/haproxy-leave: {source: salt://haproxy/files/leave.py, mode: '0755'}
        /usr/local/sbin/edge-ready: {source: salt://haproxy/files/edge-ready.j2, mode: '0755'}
    - context:
        haproxy: {{ haproxy | json }}
    - checks:
        - sh -n {staged}/usr/local/sbin/edge-ready
        - /usr/bin/python3 -m py_compile {staged}/usr/local/libexec/haproxy-leave
    - require:
      - pkg: balancer program packages
{% endif %}

haproxy running:
  checked.service:
    - name: haproxy
    - files:
        /etc/haproxy/haproxy.cfg: {source: salt://haproxy/files/haproxy.cfg.j2}
        {% for status in [400, 403, 408, 500, 502, 503, 504] %}
        /etc/haproxy/errors/{{ status | int }}.http: {source: salt://haproxy/files/errors/{{ status | int }}.http}
        {% endfor %}
        # Says when to come back, which is a setting.
        /etc/haproxy/errors/429.http: {source: salt://haproxy/files/errors/429.http.j2}
        /etc/systemd/system/haproxy.service.d/hardening.conf: {source: salt://haproxy/files/hardening.conf}
        {%- if balancer %}
        /etc/systemd/system/haproxy.service.d/balancer.conf: {source: salt://haproxy/files/balancer.conf.j2}
        {%- endif %}
        {%- if elsewhere %}
        /etc/systemd/system/haproxy.service.d/pki.conf: {source: salt://pki/files/member.conf}
        {%- endif %}
    - context:
        haproxy: {{ haproxy | json }}
        served: {{ served | json }}
        trusted: {{ salt['topology.trusted']() | json }}
        peers: {{ peers | json }}
        has_balancer: {{ (balancer is not none) | json }}
        acme: {{ acme | json }}
        machine:
          name: {{ salt['topology.machine']().name | json }}
          address: {{ salt['topology.machine']().address | json }}
          cores: {{ salt['topology.cores']() | json }}
          ipv6: {{ (grains.get('ipv6', []) | length > 0) | json }}
    # The pillar's, or made here and signed by a small CA of this machine's own, so that a client can
    # verify it; renewed by an apply before it ends.
    - made:
        maintenance.files:
          page: {{ haproxy.maintenance.page | json }}
          clients: {{ haproxy.maintenance.clients | json }}
        site.files:
          folder: {{ haproxy.tls.directory | json }}
          domain: {{ salt['topology.domain']() | json }}
          names: {{ (names.dns + hosts) | unique | sort | json }}
          addresses: {{ names.ip | json }}
          certificate: {{ haproxy.tls.certificate | json }}
          key: {{ haproxy.tls.key | json }}
          ordered: {{ acme.names | json }}
    # Of a given certificate, which is given no longer; of a balancer that is no more.
    - clean:
        - /etc/stack/pki/site.pem
        {%- if not balancer %}
        - /etc/systemd/system/haproxy.service.d/balancer.conf
        {%- endif %}
    - checks:
        - {{ ('salt://haproxy/files/check {staged} ' ~ haproxy.tls.directory) | json }}
        - {{ ('salt://haproxy/files/answers.py {staged}/etc/haproxy/haproxy.cfg ' ~ haproxy.admin.socket ~ ' salt://_utils/haproxy_socket.py') | json }}
    {%- if elsewhere %}
    - watch_files: {{ salt['pki.paths']().values() | list | json }}
    {%- endif %}
    - reload: true
    # `systemctl reload` succeeds even when the new process did not start and the old one goes on.
    - ready: salt://haproxy/files/loaded.py /run/haproxy-admin/master.sock
    - ready_timeout: 10
    - require:
      - pkg: haproxy package
      - sls: haproxy.tls
      {%- if balancer %}
      - checked: balancer program
      {%- endif %}
      {%- if elsewhere %}
      - pki: machine certificate
      {%- endif %}
