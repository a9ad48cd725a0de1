# What a person meets who logs in: the notice, where the configuration is from, umask, idle shells.
{% from 'base/map.jinja' import base with context %}

notices at login:
  checked.files:
    - files:
        /etc/issue: {source: salt://base/files/issue.j2}
        /etc/issue.net: {source: salt://base/files/issue.j2}
        /etc/motd: {source: salt://base/files/motd.j2}
    - context:
        origin: {{ base.origin | json }}
        notice: {{ base.login.notice | json }}
    - checks:
        # getty would expand a backslash (agetty(8), "issue escapes"); sshd sends it as it is.
        - salt://base/files/lines.py {staged}/etc/issue '[^\\]+'
        - salt://base/files/lines.py {staged}/etc/issue.net '[^\\]+'
        - salt://base/files/lines.py {staged}/etc/motd '[^\\]+'

shells end when idle and leave no cores:
  checked.files:
    - files:
        /etc/profile.d/stack.sh: {source: salt://base/files/profile.sh.j2}
    - context:
        seconds: {{ base.login.idle_logout | json }}
    - checks:
        - sh -n {staged}/etc/profile.d/stack.sh

# pam_umask reads it. One line of a file that is a package's own.
umask of logins:
  file.keyvalue:
    - name: /etc/login.defs
    - key: UMASK
    - value: {{ base.login.umask | json }}
    - separator: ' '
    - uncomment: '#'
    - append_if_not_found: true
