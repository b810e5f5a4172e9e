"""Strict schemas of the YAML files that users write, with errors that name line and key."""
