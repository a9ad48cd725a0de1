# The journal: kept over a reboot, bounded, and generous with lines of a busy service.
{% from 'base/map.jinja' import base with context %}

# journald has no check mode and knows no reload. Its restart keeps the streams of services open:
# systemd holds them meanwhile (systemd-journald.service(8), "stream logging").
journal limits:
  checked.service:
    - name: systemd-journald
    # The last name wins, whichever folder it is in: Debian's syslog.conf would undo a 60-stack.conf.
    - files:
        /etc/systemd/journald.conf.d/zz-stack.conf: {source: salt://base/files/journald.conf.j2}
    # Its name before.
    - clean: [/etc/systemd/journald.conf.d/60-stack.conf]
    - context:
        journal: {{ base.journal | json }}
    - checks:
        - salt://base/files/known_keys.py {staged}/etc/systemd/journald.conf.d/zz-stack.conf
    # Before, lines went to memory where /var/log/journal is missing.
    - ready: journalctl --flush && test -d /var/log/journal
