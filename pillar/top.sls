base:
  '*':
    - topology
