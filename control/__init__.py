"""The controller: what runs on the person's machine and makes, reaches and converges machines."""
