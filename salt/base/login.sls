# What a person meets who logs in: the notice, where the configuration is from, umask, idle shells.
{% from 'base/map.jinja' import base with context %}

login notices:
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

shell idle timeout and core limit:
  checked.files:
    - files:
        /etc/profile.d/stack.sh: {source: salt://base/files/profile.sh.j2}
    - context:
        seconds: {{ base.login.idle_logout | json }}
    - checks:
        - sh -n {staged}/etc/profile.d/stack.sh

# One line of a file that is a package's own. A value that is there, commented or not, is replaced: of two
# lines the first counts.
login umask:
  file.replace:
    - name: /etc/login.defs
    - pattern: '^#?UMASK[ \t]+[0-7]+[ \t]*$'
    - repl: {{ ('UMASK ' ~ base.login.umask) | json }}
    - append_if_not_found: true

# Reads it. Debian 12 has it in no stack; below the block that pam-auth-update writes, optional: it can
# lock nobody out.
login umask through pam:
  file.append:
    - name: /etc/pam.d/common-session
    - text: session optional pam_umask.so
    - unless: grep -q pam_umask.so /etc/pam.d/common-session
