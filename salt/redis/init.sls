# Redis, durable and closed: package, passwords, then the service on its checked configuration.
{% from 'redis/map.jinja' import redis with context %}

redis package:
  pkg.installed:
    - name: redis-server

redis administrator's password:
  secret.present:
    - name: redis-admin

{% for user, settings in redis.users | dictsort %}
redis password of {{ user }}:
  secret.present:
    - name: {{ settings.secret }}
    - require_in:
      - checked: redis running
{% endfor %}

redis-admin command:
  checked.files:
    - files:
        /usr/local/sbin/redis-admin: {source: salt://redis/files/redis-admin, mode: '0755'}
    - checks:
        - sh -n {staged}/usr/local/sbin/redis-admin

redis running:
  checked.service:
    - name: redis-server
    - files:
        /etc/redis/redis.conf: {source: salt://redis/files/redis.conf.j2, mode: '0640', group: redis}
        # Hashes of passwords, so not for everybody's eyes.
        /etc/redis/users.acl: {source: salt://redis/files/users.acl.j2, mode: '0640', group: redis, secret: true}
        /etc/systemd/system/redis-server.service.d/stack.conf: {source: salt://redis/files/unit.conf}
    - context:
        redis: {{ redis | json }}
        address: {{ salt['topology.address']('app') }}
    # redis-server has no check mode: the new configuration is started on a scratch folder.
    - checks:
        - salt://redis/files/check {staged}
    # Users are reread (ACL LOAD); the rest Redis reads only at its start.
    - reload: true
    - restart_on: [/etc/redis/redis.conf]
    - ready: redis-admin PING | grep -qx PONG
    - require:
      - pkg: redis package
      - secret: redis administrator's password
      - checked: redis-admin command
