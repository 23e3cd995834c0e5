"""Bring your own model: is it backdoored, and can I have a clean one."""
