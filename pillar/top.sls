base:
  '*':
    - settings
    # After what holds for all: it brings the topology's own settings with it (settings/TOPOLOGY.sls).
    - topology
  # Encrypted secrets, only where there is such a file (docs/secrets.md). A target of its own:
  # ignore_missing holds for all that its target lists.
  'os:*':
    - match: grain
    - ignore_missing: true
    - secrets
