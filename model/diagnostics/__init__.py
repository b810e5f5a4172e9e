"""Checks before a job: requirements of the plan, and measurements of GPUs and links."""
