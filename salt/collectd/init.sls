# Measuring this machine: package, the readers' passwords, then collectd on what each formula wants.
{% from 'collectd/map.jinja' import collectd with context %}
{% set readers = salt['metrics.readers']() %}
{% set secrets = salt['metrics.secrets']() %}
{% set plugins = salt['metrics.plugins']() %}

collectd packages:
  pkg.installed:
    # With the libraries of the plugins that are used: Debian only suggests them.
    - pkgs: {{ (['collectd-core'] + collectd.libraries) | json }}
    - install_recommends: false

collectd account:
  user.present:
    - name: collectd
    - system: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin
    - usergroup: true
    # Who may ask it for its bans, where it is.
    - optional_groups: [fail2ban]

{% for secret in secrets %}
{{ ('collectd password ' ~ secret) | json }}:
  secret.present:
    - name: {{ secret | json }}
    - require_in:
      - checked: collectd running
{% endfor %}

collectd running:
  checked.service:
    - name: collectd
    - files:
        /etc/collectd/collectd.conf: {source: salt://collectd/files/collectd.conf.j2}
        /etc/collectd/stack.types.db: {contents: {{ (salt['metrics.types']() | join('\n') ~ '\n') | json }}}
        /etc/collectd/readers.json: {source: salt://collectd/files/readers.json.j2}
        /usr/local/lib/stack/collectd/stack.py: {source: salt://collectd/files/stack.py}
        /usr/local/lib/stack/collectd/reader_clients.py: {source: salt://collectd/files/reader_clients.py}
        {% for name, one in readers.items() %}
        {{ ('/usr/local/lib/stack/collectd/readers/' ~ name ~ '.py') | json }}: {source: {{ one.source | json }}}
        {% endfor %}
        /etc/systemd/system/collectd.service.d/stack.conf: {source: salt://collectd/files/unit.conf.j2}
    - clean: [/usr/local/lib/stack/collectd/readers/*.py]
    - context:
        collectd: {{ collectd | json }}
        machine: {{ salt['topology.machine']().name | json }}
        plugins: {{ plugins | json }}
        log_metrics: {{ salt['metrics.log_metrics']() | json }}
        logs: /var/log/central
        readers: {{ readers | json }}
        secrets: {{ secrets | json }}
        ping: {{ ('ping' in plugins) | json }}
        addresses: {{ salt['topology.machines']() | map(attribute='address') | list | json }}
    - checks:
        - salt://collectd/files/check {staged}
    {% if secrets %}
    - watch_files:
        {% for secret in secrets %}
        - {{ salt['secret.path'](secret) | json }}
        {% endfor %}
    {% endif %}
    - ready: {{ ('curl -qsf -o /dev/null -m 2 http://' ~ collectd.address ~ ':' ~ collectd.port ~ '/metrics') | json }}
    - require:
      - pkg: collectd packages
      - user: collectd account
