"""Backup and restore: what servers keep, in one checksummed file, and back."""
