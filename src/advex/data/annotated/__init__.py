"""Folders of annotated pictures."""
