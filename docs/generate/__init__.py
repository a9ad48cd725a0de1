"""What of the documentation is made from the code itself; see __main__.py."""
