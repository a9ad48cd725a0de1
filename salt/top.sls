# Roles to formulas. Which machine has which role is said in pillar/topologies/.
base:
  '*':
    - base
    - pki
    - firewalld
    - fail2ban
    - collectd
    - shipper
    - filebeat
  'machine:roles:store':
    - match: pillar
    - redis
    - backup
  'machine:roles:app':
    - match: pillar
    - counter
    - apps
  'machine:roles:edge':
    - match: pillar
    - haproxy
    - keepalived
  'machine:roles:monitor':
    - match: pillar
    - rsyslog
    - prometheus
  # After what it opens the way to; every machine.
  'os:*':
    - match: grain
    - stunnel
