base:
  '*':
    - topology
    - settings
    # Only where there is one: encrypted secrets, docs/secrets.md.
    - secrets: {ignore_missing: true}
