"""Threads, and what they do for locks."""
