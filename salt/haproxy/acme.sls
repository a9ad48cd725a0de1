# The site's certificate from a public authority: the program on its settings, then the clock.
{% from 'haproxy/map.jinja' import haproxy with context %}
{% if haproxy.acme.directory %}
{% set order = salt['site.order'](haproxy) %}

acme packages:
  pkg.installed:
    - pkgs: [lego, ca-certificates]

acme user:
  user.present:
    - name: stack-acme
    - system: true
    - usergroup: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin

{% if order.challenge == 'dns' %}
acme token:
  secret.present:
    - name: {{ haproxy.acme.token | json }}
    - require_in:
      - checked: acme timer running
{% endif %}

acme program:
  checked.files:
    - files:
        /usr/local/libexec/haproxy-acme/haproxy-acme: {source: salt://haproxy/files/acme.py, mode: '0755'}
        # What judges every certificate here judges this one.
        /usr/local/libexec/haproxy-acme/certificate_checks.py: {source: salt://_utils/certificate_checks.py}
    - checks:
        - '{staged}/usr/local/libexec/haproxy-acme/haproxy-acme check'

{% if opts.test %}
# Of settings that are not in use yet: the authority's staging directory is asked what the real one will be. By itself: it
# waits for nothing else that would change.
acme trial:
  checked.files:
    - files:
        /etc/stack/acme/settings.json:
          contents: {{ ((order | json) ~ '\n') | json }}
    - checks:
        - {{ '/opt/salt/bin/python salt://haproxy/files/acme.py try {staged}/etc/stack/acme/settings.json' | json }}

{% endif %}
acme timer running:
  checked.service:
    - name: haproxy-acme.timer
    - files:
        /etc/stack/acme/settings.json:
          contents: {{ ((order | json) ~ '\n') | json }}
        {%- if haproxy.acme.ca %}
        /etc/stack/acme/ca.pem: {contents: {{ haproxy.acme.ca | json }}}
        {%- endif %}
        /etc/systemd/system/haproxy-acme.service: {source: salt://haproxy/files/acme.service.j2}
        /etc/systemd/system/haproxy-acme.timer: {source: salt://haproxy/files/acme.timer}
    - context:
        haproxy: {{ haproxy | json }}
        challenge: {{ order.challenge | json }}
    - watch_files: [/usr/local/libexec/haproxy-acme/haproxy-acme]
    - require:
      - checked: acme program
      - pkg: acme packages
      - user: acme user
      - checked: haproxy running
{% elif salt['file.file_exists']('/etc/systemd/system/haproxy-acme.timer') %}

acme timer stopped:
  service.dead:
    - name: haproxy-acme.timer
    - enable: false

acme units absent:
  file.absent:
    - names: [/etc/systemd/system/haproxy-acme.timer, /etc/systemd/system/haproxy-acme.service, /etc/stack/acme]
    - require:
      - service: acme timer stopped

# Or an order that failed is an alert for ever.
acme failure cleared:
  cmd.run:
    - name: systemctl reset-failed haproxy-acme.service || true
    - onchanges:
      - file: acme units absent
{% else %}

# An empty file is an error to Salt.
no public authority:
  test.nop
{% endif %}
