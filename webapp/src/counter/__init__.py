"""A web application that counts how often it has been seen."""
