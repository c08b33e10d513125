"""Devices: what a server reads and drives, declared as classes."""
