# Redis, durable and closed: package, passwords, then the service on its checked configuration.
{% from 'redis/map.jinja' import redis with context %}
{% set tls = salt['topology.is_remote']('app') %}

{# Of several stores one is the master, and Sentinels say which (salt/sentinel). #}
{% set stores = salt['topology.machines']('store') | length %}
{% set replicated = stores > 1 %}

{% if tls %}
include:
  - pki
  {%- if replicated %}
  - redis.several
  {%- endif %}
{% endif %}

redis package:
  pkg.installed:
    - name: redis-server

# As the package made it. Taken from Redis by hand it goes on, until it writes its file anew.
redis data folder:
  file.directory:
    - name: /var/lib/redis
    - user: redis
    - group: redis
    - mode: '0750'
    - require:
      - pkg: redis package

# Debian gives these two to redis, and root writes there: a link would lead it anywhere.
redis configuration folder:
  file.directory:
    - name: /etc/redis
    - user: root
    - group: redis
    - mode: '0750'
    - require:
      - pkg: redis package
    - require_in:
      - checked: redis running

redis log folder:
  file.directory:
    - name: /var/log/redis
    - user: root
    - group: adm
    - mode: '0750'
    - require:
      - pkg: redis package

redis admin password:
  secret.present:
    - name: redis-admin

{% for user, settings in redis.users | dictsort %}
{{ ('redis password ' ~ user) | json }}:
  secret.present:
    - name: {{ settings.secret | json }}
    - require_in:
      - checked: redis running
{% endfor %}

redis commands:
  checked.files:
    - files:
        /usr/local/sbin/redis-admin: {source: salt://redis/files/redis-admin, mode: '0755'}
        /usr/local/sbin/redis-reload: {source: salt://redis/files/redis-reload, mode: '0755'}
        /usr/local/sbin/redis-sandbox: {source: salt://redis/files/redis-sandbox, mode: '0755'}
        /usr/local/sbin/redis-health: {source: salt://redis/files/redis-health, mode: '0755'}
    - checks:
        - sh -n {staged}/usr/local/sbin/redis-admin
        - sh -n {staged}/usr/local/sbin/redis-reload
        - sh -n {staged}/usr/local/sbin/redis-sandbox
        - sh -n {staged}/usr/local/sbin/redis-health

redis running:
  checked.service:
    - name: redis-server
    - files:
        /etc/redis/redis.conf: {source: salt://redis/files/redis.conf.j2, mode: '0640', group: redis}
        # Hashes of passwords, so not for everybody's eyes.
        /etc/redis/users.acl: {source: salt://redis/files/users.acl.j2, mode: '0640', group: redis, secret: true}
        /etc/systemd/system/redis-server.service.d/stack.conf: {source: salt://redis/files/unit.conf}
        {%- if replicated %}
        # The password of replicas: for redis alone.
        /etc/redis/replication.conf:
          {source: salt://redis/files/replication.conf.j2, mode: '0640', group: redis, secret: true}
        /etc/systemd/system/redis-server.service.d/replication.conf: {source: salt://redis/files/replication-unit.conf}
        {%- endif %}
        {%- if tls %}
        /etc/systemd/system/redis-server.service.d/tls.conf: {source: salt://pki/files/member.conf}
    - watch_files: {{ salt['pki.paths']().values() | list | json }}
        {%- endif %}
    # Where several stores were once: a single one asks nobody.
    - clean: [/etc/redis/replication.conf, /etc/systemd/system/redis-server.service.d/replication.conf]
    - context:
        redis: {{ redis | json }}
        tls: {{ tls | json }}
        address: {{ salt['topology.address']('app') | json }}
        replicated: {{ replicated | json }}
        acknowledgements: {{ (stores // 2) | int }}
    # redis-server has no check mode: the new configuration is started on a scratch folder.
    - checks:
        - salt://redis/files/check {staged}
    # Users and the certificate are reread (redis-reload); the rest Redis reads only at its start.
    - reload: true
    - restart_on: [/etc/redis/redis.conf]
    - ready: redis-admin PING | grep -qx PONG
    {%- if replicated %}
    # One after the other, by order of the controller or not: what is left must be a majority.
    - pre_command: "! systemctl is-active --quiet redis-sentinel || /usr/local/sbin/store-set spare"
    {%- endif %}
    - require:
      - pkg: redis package
      - file: redis data folder
      - secret: redis admin password
      - checked: redis commands
      {%- if replicated %}
      - checked: store-set command
      {%- endif %}
      {%- if tls %}
      - pki: machine certificate
      {%- endif %}
