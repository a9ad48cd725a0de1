# People: first what opens (keys, sudo), then the accounts. So nobody who is being removed can
# come in again meanwhile.
{% from 'base/map.jinja' import base with context %}
{% set keys = '/etc/ssh/authorized_keys.d' %}
{# Refuses, before the first state, to touch an account of the machine's. #}
{%- do salt['people.plan'](base.users, base.protected_users) %}

# Files of root's: sshd looks for the keys of the group `people` here and nowhere else.
user ssh keys:
  checked.files:
    - files: {{ salt['people.keys'](base.users, keys) | json }}
    - clean: [{{ (keys ~ '/*') | json }}]
    - checks:
        - {{ ('salt://base/files/check_keys {staged}' ~ keys) | json }}

user sudo rules:
  checked.files:
    - files:
        /etc/sudoers.d/70-people:
          contents: {{ salt['people.sudoers'](base.users) | json }}
          mode: '0440'
    - checks:
        - visudo -c -f {staged}/etc/sudoers.d/70-people

user accounts:
  people.exactly:
    - users: {{ base.users | json }}
    - protected: {{ base.protected_users | json }}
