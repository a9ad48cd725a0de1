# The monitor: Prometheus asks every machine, Alertmanager tells people, the pages show it.
{% from 'prometheus/map.jinja' import prometheus with context %}
{% set targets = salt['metrics.targets']() %}
{% set remote = salt['topology.machines']() | length > 1 %}
{% set alerts = prometheus.alerts %}
{% set secrets = [alerts.webhook_token, alerts.email.password] | select | unique | list %}

# Debian starts both at once, on every address.
{% for unit in ['prometheus', 'prometheus-alertmanager'] %}
{{ (unit ~ ' masked until configured') | json }}:
  service.masked:
    - name: {{ unit | json }}
    - runtime: true
    - unless: {{ ('test -e /usr/bin/' ~ unit) | json }}
    - require_in:
      - pkg: monitor packages
{% endfor %}

monitor packages:
  pkg.installed:
    - pkgs: [prometheus, prometheus-alertmanager]
    # Not prometheus-node-exporter: collectd measures.
    - install_recommends: false

{% for unit in ['prometheus', 'prometheus-alertmanager'] %}
{{ (unit ~ ' unmasked') | json }}:
  service.unmasked:
    - name: {{ unit | json }}
    - runtime: true
    - require:
      - pkg: monitor packages
    - require_in:
      - checked: prometheus running
      - checked: alertmanager running
{% endfor %}

{% for secret in secrets %}
{{ ('alertmanager secret ' ~ secret) | json }}:
  secret.present:
    - name: {{ secret | json }}
    - require_in:
      - checked: alertmanager running
{% endfor %}

alertmanager running:
  checked.service:
    - name: prometheus-alertmanager
    - files:
        /etc/prometheus/alertmanager.yml: {source: salt://prometheus/files/alertmanager.yml.j2, mode: '0640', group: prometheus}
        /etc/systemd/system/prometheus-alertmanager.service.d/stack.conf: {source: salt://prometheus/files/alertmanager.conf.j2}
    - context:
        prometheus: {{ prometheus | json }}
        secrets: {{ secrets | json }}
        credentials: /run/credentials/prometheus-alertmanager.service
    - checks:
        - amtool check-config {staged}/etc/prometheus/alertmanager.yml
    {% if secrets %}
    - uses:
        {% for secret in secrets %}
        - {{ salt['secret.path'](secret) | json }}
        {% endfor %}
    {% endif %}
    - reload: true
    - ready: {{ ('salt://prometheus/files/loaded.py ' ~ prometheus.alertmanager_port ~ ' alertmanager /etc/prometheus/alertmanager.yml') | json }}
    - require:
      - pkg: monitor packages

prometheus running:
  checked.service:
    - name: prometheus
    - files:
        /etc/prometheus/prometheus.yml: {source: salt://prometheus/files/prometheus.yml.j2}
        # Each formula's own rules and page.
        {% for formula, source in salt['metrics.in_topology']('alerts.yaml').items() %}
        {{ ('/etc/prometheus/rules/' ~ formula ~ '.yaml') | json }}: {source: {{ source | json }}}
        {% endfor %}
        /etc/prometheus/console_libraries/stack.lib: {source: salt://prometheus/files/stack.lib}
        {% for page in salt['dashboards.pages']() %}
        {{ ('/etc/prometheus/consoles/' ~ page ~ '.html') | json }}: {contents: {{ salt['dashboards.console'](page) | json }}}
        {% endfor %}
        /etc/systemd/system/prometheus.service.d/stack.conf: {source: salt://prometheus/files/prometheus.conf.j2}
    - clean: [/etc/prometheus/rules/*.yaml, /etc/prometheus/consoles/*.html]
    - context:
        prometheus: {{ prometheus | json }}
        targets: {{ targets | json }}
        remote: {{ remote | json }}
    - checks:
        - salt://prometheus/files/check {staged}
    - reload: true
    - ready: {{ ('salt://prometheus/files/loaded.py ' ~ prometheus.port ~ ' prometheus /etc/prometheus/prometheus.yml') | json }}
    - ready_timeout: 60
    - require:
      - checked: alertmanager running
