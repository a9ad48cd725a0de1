# The store's backups: what is needed, who may, the program on its checked settings, then the clock.
{% from 'backup/map.jinja' import backup with context %}
{% set s3 = backup.s3.bucket is not none %}

backup packages:
  pkg.installed:
    # redis-server itself comes with the store; s3cmd only where there is a bucket.
    - pkgs: [age, redis-tools, python3{{ ', s3cmd' if s3 }}]

backup user:
  user.present:
    - name: stack-backup
    - system: true
    - usergroup: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin

# Opens this machine's backups. Whoever else shall: backup:recipients.
backup identity:
  secret.present:
    - name: backup-identity
    - require:
      - pkg: backup packages

backup redis password:
  secret.present:
    - name: redis-backup

{% for name in ['backup-s3-id', 'backup-s3-key'] if s3 %}
{{ ('backup credential ' ~ name) | json }}:
  secret.present:
    - name: {{ name | json }}
    - require_in:
      - checked: backup command
{% endfor %}

{% if not s3 %}
backup folder:
  file.directory:
    - name: {{ backup.directory | json }}
    - user: stack-backup
    - group: stack-backup
    - mode: '0700'
    - makedirs: true
    - require:
      - user: backup user
    - require_in:
      - checked: backup command
{% endif %}

backup command:
  checked.files:
    - files:
        /usr/local/sbin/stack-backup: {source: salt://backup/files/stack-backup, mode: '0755'}
        /etc/stack/backup.json:
          contents: {{ ((salt['backup.configuration'](backup) | json) ~ '\n') | json }}
    - checks:
        - /usr/bin/python3 {staged}/usr/local/sbin/stack-backup check {staged}/etc/stack/backup.json
    - require:
      - secret: backup identity
      - secret: backup redis password

backup timer running:
  checked.service:
    - name: stack-backup.timer
    - files:
        /etc/systemd/system/stack-backup.service: {source: salt://backup/files/unit.service.j2}
        /etc/systemd/system/stack-backup.timer: {source: salt://backup/files/unit.timer.j2}
    - context:
        backup: {{ backup | json }}
    - require:
      - checked: backup command
