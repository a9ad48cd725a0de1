# Roles to formulas. Which machine has which role is said in pillar/topologies/.
base:
  '*':
    - base
    - firewalld
    - fail2ban
  'machine:roles:store':
    - match: pillar
    - redis
  'machine:roles:app':
    - match: pillar
    - counter
  'machine:roles:edge':
    - match: pillar
    - haproxy
