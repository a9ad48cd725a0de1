"""What the driver is made of: the API's client, options, exit codes."""
